"""Watchlist files are taken whole or refused with the file and line of the first mistake."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from compliance import sdn
from compliance.errors import WatchlistInvalid

NULLS = ",-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- "
SDN = f'1,"DOE, Jane","individual","TEST"{NULLS}\r\n2,"ACME ""X"" LTD",-0- ,"TEST"{NULLS}\r\n\x1a\r\n'
ALT = '1,7,"aka","JANE THE, Elder",-0- \r\n'
ADD = '2,9,"1 Street","Town",-0- ,-0- \r\n2,10,-0- ,-0- ,"Nowhere",-0- \r\n'


def parse(sdn_text: str | bytes, alt: str | None = None, add: str | None = None) -> sdn.Parsed:
    """Parses texts as files."""

    def file(text: str | bytes | None) -> io.BytesIO | None:
        return None if text is None else io.BytesIO(text.encode() if isinstance(text, str) else text)

    entries = file(sdn_text)
    assert entries is not None
    return sdn.parse(entries, file(alt), file(add))


def test_names_aliases_and_countries_are_read() -> None:
    """Quotes, commas in names, nulls and OFAC's closing control-Z are understood."""
    parsed = parse(SDN, ALT, ADD)
    assert parsed.entry_count == 2
    assert [(name.entry, name.name, name.alias, name.country) for name in parsed.names] == [
        ("1", "DOE, Jane", False, ""),
        ("2", 'ACME "X" LTD', False, "Nowhere"),
        ("1", "JANE THE, Elder", True, ""),
    ]


@pytest.mark.parametrize(
    ("files", "where"),
    [
        (("",), ("SDN.CSV", "0")),
        ((SDN.replace('"individual",', ""),), ("SDN.CSV", "1")),
        ((SDN.replace("2,", "x,", 1),), ("SDN.CSV", "2")),
        ((SDN.replace("2,", "1,", 1),), ("SDN.CSV", "2")),
        ((SDN.replace('"DOE, Jane"', "-0- "),), ("SDN.CSV", "1")),
        ((SDN.replace("DOE", "D" * 500),), ("SDN.CSV", "1")),
        ((SDN.replace('LTD"', "LTD"),), ("SDN.CSV", "2")),
        ((SDN.encode() + b"3,\xff\xfe\r\n",), ("SDN.CSV", "4")),
        ((SDN.replace("Jane", "Ja\0ne"),), ("SDN.CSV", "1")),
        ((SDN, ALT.replace("1,", "5,", 1)), ("ALT.CSV", "1")),
        ((SDN, ALT, ADD.replace("2,10", "9,10")), ("ADD.CSV", "2")),
    ],
)
def test_a_broken_file_is_refused_with_its_line(files: tuple[str | bytes, ...], where: tuple[str, str]) -> None:
    """The one who has to mend it learns where."""
    with pytest.raises(WatchlistInvalid) as refusal:
        parse(*files)  # type: ignore[arg-type]
    assert (refusal.value.metadata["file"], refusal.value.metadata["line"]) == where


def test_the_example_list_can_be_imported() -> None:
    """What the demo loads is in the format that it claims."""
    folder = Path(__file__).resolve().parents[3] / "examples" / "watchlist"
    files = [io.BytesIO((folder / name).read_bytes()) for name in ("SDN.CSV", "ALT.CSV", "ADD.CSV")]
    assert sdn.parse(*files).entry_count >= 5
