"""Files in memory share what was handed to them; how they behave is in `tests/edge_client/test_files.py`."""

from simulator.memory_files import InMemory


def test_chunk_that_many_devices_keep_is_one_object() -> None:
    """Ten thousand devices with one model take the memory of one."""
    chunk, piece = bytes(4096), bytes(100)
    for device in ("a", "b"):
        files = InMemory(device)
        files.allocate("chunks", 4096)
        files.write_at("chunks", {0: chunk})
        files.write("index", piece)
        assert files.read("chunks") is chunk
        assert files.read("index") is piece
