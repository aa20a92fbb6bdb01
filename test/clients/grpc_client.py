"""Calls the Dummy service as the table on stdin says, by grpcio, and prints the results. See clients_test.go."""

import base64
import json
import sys

import grpc
from google.protobuf.wrappers_pb2 import StringValue  # on the wire it is a DummyRequest and a DummyResponse


def multimap(metadata):
    """Returns the metadata with the values of each key, binary ones in base64."""
    result = {}
    for key, value in metadata or ():
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode()
        result.setdefault(key, []).append(value)
    return result


def serialize(text):
    return StringValue(value=text).SerializeToString()


def deserialize(data):
    return StringValue.FromString(data).value


def call(channel, case):
    metadata = [
        (h["key"], base64.b64decode(h["value"]) if h["key"].endswith("-bin") else h["value"])
        for h in case["header"]
    ]
    single_request = case["shape"] in ("unary", "server_stream")
    single_response = case["shape"] in ("unary", "client_stream")
    kind = ("unary" if single_request else "stream") + "_" + ("unary" if single_response else "stream")
    method = getattr(channel, kind)(case["method"], serialize, deserialize)
    requests = case["inputs"][0] if single_request else iter(case["inputs"])
    timeout = case["timeoutMs"] / 1000 or None
    outputs = []
    if single_response:
        call_ = method.future(requests, metadata=metadata, timeout=timeout)
        if call_.code() == grpc.StatusCode.OK:
            outputs.append(call_.result())
    else:
        call_ = method(requests, metadata=metadata, timeout=timeout)
        try:
            outputs.extend(call_)
        except grpc.RpcError:
            pass
    return {
        "outputs": outputs,
        "code": call_.code().name.lower().replace("cancelled", "canceled"),
        "message": call_.details(),
        "header": multimap(call_.initial_metadata()),
        "trailer": multimap(call_.trailing_metadata()),
    }


def main():
    table = json.load(sys.stdin)
    # No proxy is between two programs on one machine.
    with grpc.insecure_channel(table["host"], options=[("grpc.enable_http_proxy", 0)]) as channel:
        json.dump([call(channel, case) for case in table["cases"]], sys.stdout)


main()
