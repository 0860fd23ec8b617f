"""C++ constants have one style; the check of it finds what has another."""

from __future__ import annotations

import pytest

import cpp_constants
from cpp_constants import EXEMPT, PLUGIN, ROOT, misnamed, nearly_the_same, problems, sources


def test_the_checkout() -> None:
    assert problems() == []
    assert len(sources()) > 100
    assert all((ROOT / path).is_file() for path in EXEMPT)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("constexpr int kWHOLE_WINDOW = 1 << 22;", "kWHOLE_WINDOW"),
        ("static constexpr int32_t kFLOAT = 4;", "kFLOAT"),
        ("constexpr int threads = 64;", "threads"),
        ("constexpr char const* kINPUT_NAMES[2] = {};", "kINPUT_NAMES"),
        ("int const kTHREADS = count();", "kTHREADS"),
        ("template <int kROWS>\nvoid run();", "kROWS"),
        ("enum class GateSource : int\n{\n    kNone, //!< kept\n    kPLANES\n};", "kPLANES"),
        ("static constexpr Table kTABLE{1};", "kTABLE"),
    ],
)
def test_another_style_is_found(code: str, name: str) -> None:
    lines = code.splitlines()
    line = next(i for i, text in enumerate(lines, 1) if name in text)
    assert misnamed(code, in_plugin=False) == [(line, name)]


@pytest.mark.parametrize(
    "code",
    [
        "constexpr int32_t kTileM = 64;\nconstexpr int kX = 1;\nconstexpr bool kAvx512 = true;",
        "template <int32_t kTileM_> struct T { static constexpr int32_t kTileM = kTileM_; };",
        "constexpr int64_t convSize(int64_t size)\n{\n    return size;\n}",
        "return nvinfer1::DataType::kFLOAT; // kLINEAR",
        'log("kHWC8");',
        "if constexpr (kSplits)\n{\n    run();\n}",
    ],
)
def test_the_style_is_not(code: str) -> None:
    assert misnamed(code, in_plugin=False) == []


def test_the_plugin_has_the_style_of_tensorrt() -> None:
    assert misnamed("constexpr int32_t kSUCCESS = 0;\nreturn shapes[kGateW];", in_plugin=True) == []
    assert misnamed("constexpr int32_t kReasonBytes = 0;", in_plugin=True) == [(1, "kReasonBytes")]
    assert any(path.relative_to(ROOT).as_posix().startswith(PLUGIN) for path in sources())


def test_names_that_are_nearly_the_same_are_found() -> None:
    assert nearly_the_same(["kWholeWindow", "kWHOLE_WINDOW", "kTileM", "kTileM_"]) == [["kWHOLE_WINDOW", "kWholeWindow"]]


def test_the_command_fails(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "contract").mkdir()
    (folder / "contract" / "a.h").write_text("constexpr int kA = 1;\nconstexpr int kBAD = 2;\n")
    monkeypatch.setattr(cpp_constants, "ROOT", folder)
    assert problems() == ["contract/a.h:2: kBAD is not kPascalCase"]
