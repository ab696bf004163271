"""`python -m r2ec`, for launchers that start a module: `torchrun -m r2ec train …`."""

from r2ec.cli.main import main

main()
