"""Train, as on any other day: `python train.py fit --config config.yaml`."""

from __future__ import annotations

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from tumours.data import Measurements
from tumours.model import Classifier


class TumoursCLI(LightningCLI):
    """The project's command line."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The model has as many inputs as the data has measurements."""
        parser.link_arguments("data.num_features", "model.num_features", apply_on="instantiate")


def main() -> None:
    """Build everything from the command line and run the subcommand."""
    TumoursCLI(Classifier, Measurements, seed_everything_default=42)


if __name__ == "__main__":
    main()
