"""The names that a user imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ad_lib


@pytest.mark.parametrize("name", ad_lib.__all__)
def test_every_public_name_is_there(name):
    assert getattr(ad_lib, name).__name__ == name if name != "PRESETS" else ad_lib.PRESETS


def test_public_names_are_sorted_unique_and_all_have_a_home():
    assert len(set(ad_lib.__all__)) == len(ad_lib.__all__)
    assert set(ad_lib.__all__) == set(ad_lib._HOME)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'ad_lib' has no attribute 'rendr'"):
        ad_lib.rendr  # noqa: B018 - the access is the test


@pytest.mark.parametrize("code", ["import ad_lib", "import ad_lib; ad_lib.PRESETS"])
def test_importing_the_library_or_reading_a_preset_loads_no_torch(code):
    check = f"{code}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("error", ["RequestError", "ImageError", "BackboneError"])
def test_refusals_are_value_errors(error):
    assert issubclass(getattr(ad_lib, error), ValueError)


def test_numerics_errors_are_arithmetic_errors():
    assert issubclass(ad_lib.NumericsError, ArithmeticError)
