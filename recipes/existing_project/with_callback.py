"""Train with research before the fit: `python with_callback.py fit --config config.yaml`."""

from __future__ import annotations

from train import TumoursCLI
from tumours.data import Measurements
from tumours.model import Classifier

from lightning_autoresearch import AutoResearch


def main() -> None:
    """The project's command line, with one callback more."""
    defaults = {"callbacks": [AutoResearch("callback.yaml")]}
    TumoursCLI(Classifier, Measurements, seed_everything_default=42, trainer_defaults=defaults)


if __name__ == "__main__":
    main()
