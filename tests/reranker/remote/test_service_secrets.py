"""Services that rerank: keys are shown to nobody, and certificates are checked."""

import logging
import shutil
import ssl
import subprocess
import traceback
from pathlib import Path

import pytest
from fault_server import KEY, Answer, FaultServer, Time, fault_server, remote
from service_calls import Ask, failing

# Secrets


def test_the_key_and_the_addresss_query_are_in_no_message_no_repr_and_no_log(
    faults: FaultServer, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    faults.answers = [
        Answer({"message": f"the key {KEY} is not known"}, 401),
        Answer({"message": "x" * 190 + f" {KEY}"}, 401),  # what is shown ends within the key
        Answer({"message": "no"}, 500),
        Answer({"a": KEY, KEY: 1}),
    ]
    function = remote(f"{faults.address}/v1/rerank?secret=hidden", time=Time(), attempts=1)
    told = [failing(ask, function) for _ in range(4)]
    assert KEY[:6] not in str(told[1])
    assert faults.address in caplog.text
    for logged in (KEY, "hidden"):
        assert logged not in caplog.text
    caplog.set_level(logging.WARNING)  # what a service repeats in its headers, httpcore logs
    faults.answers = [
        Answer(f"<html>{KEY}".encode(), headers={"content-type": f"text/{KEY}"}),
        Answer({"message": "moved"}, 302, {"location": f"/{KEY}/x"}),
    ]
    told += [failing(ask, function) for _ in range(2)]
    for error in told:
        written = "".join(traceback.format_exception(error)) + repr(error)
        assert faults.address in written
        assert KEY not in written
        assert "hidden" not in written
    assert "the key *** is not known" in str(told[0])
    assert [one.headers["authorization"] for one in faults.received] == [f"Bearer {KEY}"] * 6
    assert {one.path for one in faults.received} == {"/v1/rerank?secret=hidden"}
    for one in (function, function.endpoint, vars(function)):
        assert KEY not in repr(one)
        assert "hidden" not in repr(one)


# TLS


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_is_checked(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    names = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ]
    subprocess.run(["openssl", *made, *names], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with fault_server(lambda raw: context.wrap_socket(raw, server_side=True)) as faults:
        clock = Time()
        error = failing(ask, remote(faults.address, time=clock))
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        assert "set SSL_CERT_FILE to the authority's" in str(error)
        assert (faults.received, clock.pauses) == ([], [])
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert ask(remote(faults.address)) == [1.0, 3.0, 2.0]
