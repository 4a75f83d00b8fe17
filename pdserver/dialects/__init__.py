"""Wire languages: each translates its protocol to Request and Outcome."""
