"""An upload that does not fit is refused as such and leaves nothing."""

from pathlib import Path

import pytest
from openai import APIStatusError, OpenAI

from tests.api.server import Server, serve, variant
from tests.small_disk import small_disk
from tests.tiny_model import write_rows


def test_an_upload_to_a_full_disk_is_507_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1000)
    with small_disk(tmp_path / "state" / "storage", kibibytes=64) as disk:
        settings = variant(server.settings, state_dir=tmp_path / "state")
        with serve(settings) as url, OpenAI(base_url=f"{url}/v1", api_key=server.api_key) as client:
            with pytest.raises(APIStatusError) as caught:
                client.files.create(file=rows, purpose="fine-tune")
            assert (caught.value.status_code, caught.value.code) == (507, "storage_full")
            assert list(client.files.list()) == []
            assert [path for path in disk.rglob("*") if path.is_file()] == []
            small = client.files.create(file=b'{"messages": []}', purpose="fine-tune")
            assert client.files.content(small.id).read() == b'{"messages": []}'
