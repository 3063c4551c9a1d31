import os

# two xdist workers on two cores: libraries must not start a thread pool each
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

collect_ignore = ["backends"]  # a link to mithril_losses/backends, whose tests would run twice
