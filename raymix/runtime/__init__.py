"""Storage, leases, process groups and the Ray cluster: what the other packages run on.

`storage` reads and writes files locally and on object stores, with retries; `lease` keeps two drivers out of one study;
`distributed` has the collectives of training (all-gather with gradient, cross-rank BatchNorm); `ray_cluster` and
`ray_head` join or start a Ray cluster, `cluster_nodes` and `cluster_capacity` say what it has; `expressions` evaluates
`mixture.k == 2`.

Nothing here depends on clips, methods or studies.
"""
