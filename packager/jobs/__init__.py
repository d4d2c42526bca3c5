"""Jobs: heavy work that runs in child processes; `harness.run_job` runs a `job.Job`."""
