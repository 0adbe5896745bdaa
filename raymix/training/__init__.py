"""Training of trials: the training loop, and the long-lived Ray Train runs that trials are assigned to.

`loop` trains one model, yields once per epoch and imports no Ray; `worker` is the Ray Train function of each worker;
`coordinator` is the actor that assigns trials to slots and collects their reports; `standing_run` starts and restarts
the Ray Train run of a slot. Which trials are run is decided in `raymix.search`.
"""
