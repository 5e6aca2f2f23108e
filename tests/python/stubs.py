"""The stubs, generated from proto/ by the package grpcio-tools into a temporary directory: `from stubs import pb, rpc`."""

import atexit
import pathlib
import shutil
import sys
import tempfile

from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = pathlib.Path(tempfile.mkdtemp(prefix="mute-stubs-"))
atexit.register(shutil.rmtree, PLACE, ignore_errors=True)
WELL_KNOWN = pathlib.Path(protoc.__file__).parent / "_proto"
sys.path.insert(0, str(PLACE))
arguments = [f"-I{ROOT}/proto", f"-I{WELL_KNOWN}", f"--python_out={PLACE}", f"--grpc_python_out={PLACE}", "mute/v1/mute_service.proto"]
assert protoc.main(["", *arguments]) == 0

from mute.v1 import mute_service_pb2 as pb, mute_service_pb2_grpc as rpc  # noqa: E402, F401
