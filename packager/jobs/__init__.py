"""Heavy work, each piece of it in a process of its own: `harness.run_job` does a `job.Job`."""
