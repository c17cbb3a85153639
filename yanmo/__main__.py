"""`python -m yanmo`, which torchrun starts as `torchrun --nproc_per_node=N -m yanmo pretrain RECIPE`."""

from yanmo.cli import main

main()
