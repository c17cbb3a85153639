"""Personal data out: what looks like it, and whose check digit agrees, becomes a placeholder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date

from yanmo.recipe import PersonalData

# Lengths are bounded and each begins at the beginning of a run, so that a long run costs linear time.
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,62})\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_PHONE = re.compile(
    r"(?<![\d.\-])(?:"
    r"(?:\+?86[ \-]?)?1[3-9]\d[ \-]?\d{4}[ \-]?\d{4}"                     # mobile, mainland China
    r"|(?:\(0\d{2,3}\)|（0\d{2,3}）|0\d{2,3}[ \-])[ ]?\d{7,8}"              # landline with area code
    r"|[48]00[ \-]\d{3,4}[ \-]\d{3,4}"                                    # service numbers
    r"|\+\d{1,3}(?:[ \-.]?\(?\d{1,4}\)?){2,5}"                             # international
    r"|\(\d{3}\)[ ]?\d{3}[\-. ]\d{4}"                                      # North America
    r"|\d{3}[\-.]\d{3}[\-.]\d{4}"
    r")(?![\d\-])"
)
_IDENTITY = re.compile(r"(?<![\dA-Za-z])[1-9]\d{16}[\dXx](?![\dA-Za-z])")
_CARD = re.compile(r"(?<![\d.\-])[2-6]\d{3}(?:[ \-]?\d{4}){2}[ \-]?(?:\d{4}[ \-]?\d{1,3}|\d{1,7})(?![\d\-])")


def scrub(text: str, kinds: Sequence[PersonalData], count: Counter[str]) -> str:
    """Replace personal data of these kinds by [email], [phone], [identity], [card]; `count` says how many of each."""
    for kind, pattern, found in _KINDS:
        if kind not in kinds or (kind == "email" and "@" not in text):
            continue

        def replace(match: re.Match[str], kind: str = kind, found: Callable[[str], str] = found) -> str:
            data = found(match[0])
            if not data:
                return match[0]
            count[kind] += 1
            return f"[{kind}]{match[0][len(data) :]}"

        text = pattern.sub(replace, text)
    return text


def valid_identity(number: str) -> bool:
    """Whether an 18-place Chinese identity number has a true birthday and check character (GB 11643, ISO 7064 MOD 11-2)."""
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(number[:17]))
    return 1900 <= born.year <= 2100 and "10X98765432"[total % 11] == number[17].upper()


def valid_card(number: str) -> bool:
    """Whether a bank card number of 13 to 19 digits passes Luhn's test (ISO/IEC 7812-1, annex B)."""
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _card(number: str) -> str:
    """The card's number; what stands after its last gap may be another number."""
    shorter = re.sub(r"[ \-]\d{1,3}$", "", number)
    return number if valid_card(number) else shorter if valid_card(shorter) else ""


# What each pattern finds is checked: the part of the match that is personal data comes back, or nothing. E-mail comes first,
# because an address may begin with a phone number.
_KINDS: tuple[tuple[PersonalData, re.Pattern[str], Callable[[str], str]], ...] = (
    ("email", _EMAIL, str),
    ("identity", _IDENTITY, lambda number: number if valid_identity(number) else ""),
    ("card", _CARD, _card),
    ("phone", _PHONE, lambda number: number if 7 <= sum(map(str.isdigit, number)) <= 15 else ""),
)
