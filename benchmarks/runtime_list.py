"""The runtimes that exported models are tried in: for `runtimes.py` and for tests/export/test_runtimes.py.

Every runtime gets one image in float32 and one thread. A loader takes a `Case` and returns a function from images to outputs, or a
string for what is not run. Packages: tools/requirements-runtimes.txt.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

Run = Callable[[np.ndarray], list[np.ndarray]]
OPERATORS = Path(__file__).resolve().parents[1] / 'tests' / 'export' / 'tensorrt_operators.txt'


@dataclass(frozen=True)
class Case:
    """An exported model: a folder with model.onnx, fp16.onnx, two programs of torch.export, and images.npy."""

    folder: Path

    @cached_property
    def images(self) -> torch.Tensor:
        return torch.from_numpy(np.load(self.folder / 'images.npy')[:1])

    def program(self, folded: bool = False):
        return torch.export.load(self.folder / ('folded.pt2' if folded else 'program.pt2'))


@dataclass(frozen=True)
class Runtime:
    """A way to run an exported model.

    Attributes:
        package: its distribution.
        load: from a case to a function, or to a string that says what was shown instead.
        tolerance: of the largest difference to PyTorch, relative to the largest value.
        modules: import names that must be there.
    """

    name: str
    package: str
    load: Callable[[Case], Run | str]
    modules: tuple[str, ...] = ()
    tolerance: float = 1e-4

    @property
    def version(self) -> str | None:
        """Of the package; None if it is not installed."""
        if not self.package:
            return operator_page()[0]
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


def session(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    found = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return lambda images: found.run(None, {'images': images})


def onnxruntime_fp32(case: Case) -> Run:
    return session(case.folder / 'model.onnx')


def onnxruntime_fp16(case: Case) -> Run:
    return session(case.folder / 'fp16.onnx')


def openvino(case: Case, precision: str | None = 'f32') -> Run:
    import openvino as ov

    options = {'INFERENCE_NUM_THREADS': 1, 'PERFORMANCE_HINT': 'LATENCY'}
    options |= {'INFERENCE_PRECISION_HINT': precision} if precision else {}
    model = ov.Core().compile_model(str(case.folder / 'model.onnx'), 'CPU', options)
    return lambda images: list(model([images]).to_tuple())


def openvino_default(case: Case) -> Run:
    return openvino(case, None)


def ncnn(case: Case) -> Run:
    import ncnn as package
    import pnnx

    shape = ','.join(map(str, case.images.shape))
    subprocess.run(
        [pnnx.EXEC_PATH, 'model.onnx', f'inputshape=[{shape}]', 'fp16=0'], cwd=case.folder, check=True, capture_output=True
    )
    net = package.Net()
    net.opt.num_threads = 1
    if net.load_param(str(case.folder / 'model.ncnn.param')) or net.load_model(str(case.folder / 'model.ncnn.bin')):
        raise RuntimeError('ncnn does not load the files that pnnx wrote')
    outputs = net.output_names()

    def run(images):
        extractor = net.create_extractor()
        extractor.input('in0', package.Mat(images[0]).clone())
        results = [extractor.extract(name) for name in outputs]
        if any(status for status, _ in results):
            raise RuntimeError(f'ncnn stops with status {[status for status, _ in results]}')
        return [np.array(found)[None] for _, found in results]

    return run


def opencv(case: Case) -> Run:
    import cv2

    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(str(case.folder / 'model.onnx'))

    def run(images):
        net.setInput(images)
        return list(net.forward(net.getUnconnectedOutLayersNames()))

    return run


def aot_inductor(case: Case) -> Run:
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    torch.set_num_threads(1)
    with torch.no_grad():
        path = aoti_compile_and_package(case.program(), package_path=str(case.folder / 'model.pt2'))
    return of_tensors(aoti_load_package(path))


def executorch(case: Case) -> Run:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime as Loader

    program = to_edge_transform_and_lower(case.program(), partitioner=[XnnpackPartitioner()]).to_executorch()
    buffer = program.buffer
    loaded = Loader.get().load_program(buffer)
    method = loaded.load_method('forward')  # reads the other two as long as it runs
    return of_tensors(lambda images, kept=(buffer, loaded): method.execute([images]))


def litert(case: Case) -> Run:
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter

    path = case.folder / 'model.tflite'
    litert_torch.convert(case.program(folded=True).module(), (case.images,)).export(str(path))
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,), targets = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images):
        interpreter.set_tensor(source['index'], images)
        interpreter.invoke()
        return [interpreter.get_tensor(target['index']) for target in targets]

    return run


def core_ml(case: Case) -> str:
    import coremltools

    model = coremltools.convert(
        case.program(folded=True).run_decompositions({}), convert_to='mlprogram', compute_precision=coremltools.precision.FLOAT32
    )
    model.save(str(case.folder / 'model.mlpackage'))
    return 'converts; prediction needs macOS'


def tensorrt(case: Case) -> str:
    import onnx

    from mmfreq.export.onnx_file import operators_of

    page, supported = operator_page()
    missing = sorted(set(operators_of(onnx.load(case.folder / 'model.onnx'))) - supported)
    if missing:
        raise RuntimeError(f'not on the operator page of TensorRT {page}: {", ".join(missing)}')
    return 'operators supported; not run, it needs a GPU'


def operator_page() -> tuple[str, set[str]]:
    """The version and the operators of the committed list."""
    lines = OPERATORS.read_text(encoding='utf-8').splitlines()
    names = {name for line in lines if not line.startswith('#') for name in line.split()}
    return next(line.split()[-1] for line in lines if line.startswith('# TensorRT')), names


def of_tensors(function: Callable) -> Run:
    """A function of arrays from one of tensors."""

    def run(images):
        with torch.no_grad():
            outputs = function(torch.from_numpy(images))
        return [output.numpy() for output in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]

    return run


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime('onnxruntime', 'onnxruntime', onnxruntime_fp32, ('onnxruntime',)),
        Runtime('onnxruntime, fp16 file', 'onnxruntime', onnxruntime_fp16, ('onnxruntime',), 2e-2),
        Runtime('OpenVINO, f32', 'openvino', openvino, ('openvino',)),
        Runtime('OpenVINO, default', 'openvino', openvino_default, ('openvino',), 5e-2),
        Runtime('ncnn', 'ncnn', ncnn, ('ncnn', 'pnnx'), 2e-3),
        Runtime('OpenCV DNN', 'opencv-python', opencv, ('cv2',)),
        Runtime('AOTInductor', 'torch', aot_inductor, ('torch',)),
        Runtime('ExecuTorch, XNNPACK', 'executorch', executorch, ('executorch.runtime',)),
        Runtime('LiteRT', 'ai-edge-litert', litert, ('litert_torch', 'ai_edge_litert')),
        Runtime('Core ML', 'coremltools', core_ml, ('coremltools',)),
        Runtime('TensorRT', '', tensorrt),
    )
}
