"""OSNet from the widely distributed checkpoints, in PyTorch."""

from pathlib import Path

from reid_index.files import sha256_file

from .backbones.osnet import OSNet, detect_variant
from .checkpoint import load_state_dict, load_strictly
from .preprocess import Preprocess
from .torch_model import TorchExtractor, torch_device


class OSNetExtractor(TorchExtractor):
    """One global vector of 512 for each crop, not normalised, from an OSNet checkpoint.

    weights: a published or own checkpoint of any variant; which one shows in its tensors.
    device: as PyTorch names it: "cpu", "cuda", "cuda:1". GPU vectors differ a little from the
    CPU's: there PyTorch computes convolutions in TF32 unless told otherwise.

    Crops are resized to 256 × 128 and normalised with the means and deviations of ImageNet, as
    the published weights were trained.

    Raises BadWeights where the file is missing, unsafe or not exactly an OSNet, UsageError where
    the device is not to be had.
    """

    def __init__(self, weights: Path, *, device: str = "cpu") -> None:
        processor = torch_device(device)
        state = load_state_dict(weights)
        variant = detect_variant(state, path=weights)
        network = OSNet(width=variant.width, norm=variant.norm)
        load_strictly(network, state, classifier_prefixes=("classifier.",), path=weights)
        preprocess = Preprocess(
            height=256,
            width=128,
            scale=1 / 255,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
        fingerprint = preprocess.fingerprint(
            name="osnet", version="1", weights_sha256=sha256_file(weights), pooling="average"
        )
        super().__init__(
            network.to(processor).eval(),
            device=processor,
            preprocess=preprocess,
            fingerprint=fingerprint,
        )
