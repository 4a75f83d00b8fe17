"""Wire protocols. Each dialect translates its protocol to Request and Outcome."""
