"""Texts that break tokenizers: a hand-picked list, and a seeded generator that joins such pieces at random."""

import random
from collections.abc import Iterator

HARD = {
    "empty": "",
    "only spaces": "    ",
    "only white space": " \t\r\n\v\f\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u3000 ",
    "leading and trailing": "  a cat \n",
    "tabs and line feeds": "a\tcat\nand\r\na\rdog",
    "vertical tab and form feed": "a\vcat\fand a dog",
    "separators of ASCII": "a\x1ccat\x1dand\x1ea\x1fdog",
    "next line": "a\x85cat",
    "no-break space": "a\xa0cat",
    "narrow and figure spaces": "10\u202f000\u2007cats",
    "ideographic space": "猫\u3000犬",
    "zero width space": "a\u200bcat",
    "word joiner and joiners": "a\u2060c\u200cat\u200d",
    "soft hyphen": "cat\xadalogue",
    "BOM first": "\ufeffa cat",
    "BOM inside": "a \ufeffcat",
    "upper case": "A PHOTO OF A CAT",
    "composed accents": "café, naïve, Ångström, ÉCOLE",
    "decomposed accents": "cafe\u0301, nai\u0308ve, A\u030angstro\u0308m",
    "stacked accents": "z\u0351\u0310a\u0322\u0325l\u0334go",
    "full width": "ＡＢＣ　１２３！",
    "half-width katakana": "ﾈｺ ｶﾞ",
    "ligatures": "ﬁre ﬂies ﬃne ﬀ ﬆ ﬅ",
    "ligatures kept": "œuvre æther ǆ ĳ",
    "long s": "'ſ a\u017fk it'ſ <\u017ftart_of_text>",
    "Kelvin and dotted I": "\u212aelvin İstanbul ıİ",
    "final sigma": "ΟΔΥΣΣΕΥΣ ΣΑΣ Σ ΑΣ! ΑΣ\u2003ΒΣ\xa0ΓΣ",
    "sharp s": "STRASSE Straße ẞ",
    "entity": "cats &amp; dogs &lt;b&gt; &quot;x&quot; &copy; &eacute;",
    "entity twice": "cats &amp;amp; dogs &amp;lt;br&amp;gt; &amp;eacute;",
    "entity three times": "cats &amp;amp;amp; dogs",
    "entity without semicolon": "cats &amp dogs &copy 2020 &notit;",
    "entity beside a tag": "<p>cats &amp; dogs</p>",
    "numeric entities": "&#65;&#x42;&#8217;&#xe9; &#128;&#x92;",
    "bad numeric entities": "&#0; &#x0; &#1; &#xD800; &#x110000; &#99999999; &amp;#0; &#; &#x;",
    "entity of white space": "a&nbsp;cat&#9;and&NewLine;a&#12;dog&#10;&emsp;x",
    "upper-case entity": "&AMP; &LT; &EACUTE;",
    "bare ampersand": "R&D, Q&A, & &&",
    "mojibake": "itâ€™s a cafÃ© â€œquotedâ€\x9d naÃ¯ve",
    "mojibake twice": "cafÃƒÂ©",
    "mojibake with no-break space": "voilÃ\xa0 le travail",
    "mojibake Cyrillic": "РїСЂРёРІРµС‚",
    "smart quotes": "“it’s” ‘quoted’ „low‟ «angle» ‚x‛",
    "dashes and dots": "a – b — c … d · e • f",
    "control characters": "a\x00c\x01a\x07t\x08\x0e\x1b\x7f!",
    "C1 controls": "a\x80b\x9fc",
    "null": "\x00",
    "nulls between words": "a \x00 cat",
    "ANSI": "\x1b[31mred\x1b[0m cat \x1b[1;32mgreen\x1b[m",
    "ANSI cut short": "red\x1b[ cat \x1b",
    "interlinear and tags": "\ufff9x\ufffay\ufffb \U000e0041\U000e007f",
    "directional marks": "\u202aabc\u202c \u200fשלום\u200e",
    "emoji": "a cat 😺 and a dog 🐶!!! 😀😀😀",
    "emoji joined": "👩‍👩‍👧‍👦 🏳️‍🌈 👩🏽‍🚒",
    "emoji modified": "👍🏿 ☺️ ☺︎ 1️⃣ #️⃣ 🇩🇪🇫🇷",
    "CJK": "一只猫坐在垫子上。",
    "Japanese": "猫がマットの上に座っている。",
    "Korean": "고양이가 매트 위에 앉아 있다",
    "Korean decomposed": "\u1100\u1169\u110b\u1163\u11bc\u110b\u1175",
    "Arabic": "قطة تجلس على الحصيرة ٣٤٥",
    "Hebrew": "חתול יושב על המחצלת",
    "Thai": "แมวนั่งอยู่บนเสื่อ",
    "Devanagari": "बिल्ली चटाई पर बैठी है १२३",
    "Russian": "Кошка сидит на коврике",
    "other planes": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𐍈 𠜎",
    "numbers of many kinds": "²³ ½ Ⅷ ⑩ ٣ १ 一",
    "digits": "route 66, 1234567890, 3.14, 1st",
    "underscores": "a_photo_of_a_cat __init__ _",
    "contractions": "I'll he's we've they're I'm he'd don't 'S 'LL 'tis 'reals ''s",
    "contractions with smart quotes": "I’ll he’s don’t",
    "punctuation": "wow!!! (a.b.c) [x] {y} <z> \\ / | ~ ` @ # $ % ^ * + = ; : ,",
    "curly braces": "{} {0} {{name}} %s %(x)s",
    "slashes and addresses": "https://example.com/a?b=c&d=e#f me@example.com C:\\x",
    "hyphens": "a well-known black-and-white cat -- --- -",
    "special of open_clip": "a <end_of_text> b <start_of_text> c",
    "special glued": "x<end_of_text>y<start_of_text><end_of_text>!<end_of_text>",
    "special in upper case": "<END_OF_TEXT> <Start_Of_Text>",
    "special after punctuation": "!<end_of_text> <<end_of_text>> < end_of_text > <end_of_text",
    "special of OpenAI": "a <|endoftext|> b <|startoftext|>",
    "special by entities": "&lt;end_of_text&gt; &amp;lt;start_of_text&amp;gt;",
    "mark of a word's end": "</w> a</w> <w> </ w>",
    "lone high surrogate": "a \ud83d cat",
    "lone low surrogate": "\ude00",
    "surrogates as a pair": "\ud83d\ude00",
    "surrogates reversed": "\ude00\ud83d x",
    "replacement character": "a \ufffd cat \ufffe\uffff",
    "private use": "\ue000\uf8ff\U000f0000",
    "long word": "a" * 5000,
    "long word of all letters": "thequickbrownfoxjumpsoverthelazydog" * 60,
    "long punctuation": "!?" * 800,
    "long in another script": "кот" * 900,
    "10,000 words": "the cat sat on a mat " * 1667,
    "very long line without repair": "word, " * 3000,
}

_PIECES = [
    *HARD.values(),
    *"abcdefghijklmnopqrstuvwxyzABCSΣσς0123456789 .,'’\"&;#<>|_-{}()\t\n\r\v\f\x00\x1b\x7f\x85\xa0\xad",
    *"éÃ©â€™œﬁＡ猫가ก😀ſİ\u0301\u200b\u200d\u3000\ufeff\ufffd\ud800\udc00",
    *("the", "cat", "Photo", "'s", "'LL", "&amp;", "&lt;", "&#", "&#x41;", "\x1b[0m", "<end_of_text>", "Ã©", "â€œ"),
]
_SHORT_PIECES = [piece for piece in _PIECES if len(piece) <= 12]


def nasty_texts(seed: int, count: int) -> Iterator[str]:
    """Generate texts of random pieces; every second one is nearly clean, to test the boundary of the fast path."""
    generator = random.Random(seed)
    for number in range(count):
        if number % 2:
            yield "".join(generator.choices(_SHORT_PIECES, k=generator.randint(1, 30)))
        else:
            words = generator.choices(
                ("a", "Dog's", "RUNS", "snow,", "3rd", "(red)", "mid-air", "..."), k=generator.randint(1, 12)
            )
            words.insert(generator.randrange(len(words)), generator.choice(_SHORT_PIECES))
            yield generator.choice((" ", "  ", "")).join(words)
