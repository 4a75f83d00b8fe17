"""The cluster's parts as actors of Ray. Nothing else imports it.

They are detached and in the namespace "pdserver": `controller` on the head's machine, `node-ID` on each machine, and
`entrance-ID` on some, where ID is Ray's of the machine. Each is a thin shell around what knows nothing of Ray. Other
parts see them as `RayNode`, `RayEntrance` and `RayHolder`, which raise NodeLost for what Ray raises, and can cross
machines. The command uses `ray_cluster`.
"""
