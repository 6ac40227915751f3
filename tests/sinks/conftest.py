from pathlib import Path
from typing import NamedTuple

import pytest

from tests.peers.certificates import Certificates


class Files(NamedTuple):
    """Certificates as an operator has them: in files, each named after what it is."""

    certificates: Certificates
    ca: Path
    stranger: Path
    client: Path
    client_key: Path
    both: Path


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    made, folder = Certificates(), tmp_path_factory.mktemp("tls")
    client = made.client("gateway")
    files = Files(made, *(folder / f"{name}.pem" for name in ("ca", "stranger", "client", "client_key", "both")))
    made.authority.cert_pem.write_to_path(files.ca)
    made.stranger.cert_pem.write_to_path(files.stranger)
    client.cert_chain_pems[0].write_to_path(files.client)
    client.private_key_pem.write_to_path(files.client_key)
    client.private_key_and_cert_chain_pem.write_to_path(files.both)
    return files
