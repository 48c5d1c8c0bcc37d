"""`python -m lightning_autoresearch` is the command `lightning-autoresearch`."""

from lightning_autoresearch.cli import main

raise SystemExit(main())
