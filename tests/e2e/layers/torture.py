"""Layers in which everything odd that a layer may be is, with names to call them by."""

from tests.e2e.layers.archive import (
    BLOCK_DEVICE,
    CHAR,
    DIR,
    FIFO,
    LINK,
    NS,
    SYMLINK,
    Member,
    libarchive_xattr,
)

# Bytes of an attribute.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
ACL = bytes.fromhex(
    "0200000001000600ffffffff0200040031d4000004000400ffffffff10000600ffffffff20000400ffffffff"
)
LONG = "n" * 255
DEEP = "/".join(f"{n:0>60}" for n in range(40))
PIECES = {0: b"a" * 100, 5000: b"b" * 4096, 100_000: b"c" * 70_000, 999_999: b"d"}
MANY_PIECES = {n * 9000: bytes([n % 251 + 1]) * (n * 37 % 5000 + 1) for n in range(99)}


def d(path: str, mode: int = 0o755, **more: object) -> Member:
    """A directory."""
    return Member(path, DIR, mode=mode, **more)  # type: ignore[arg-type]


def f(path: str, content: bytes = b"", **more: object) -> Member:
    """A file."""
    return Member(path, content=content or path.encode(), **more)  # type: ignore[arg-type]


def link(path: str, target: str, **more: object) -> Member:
    """Another name of a file."""
    return Member(path, LINK, target=target, **more)  # type: ignore[arg-type]


def sym(path: str, target: str, **more: object) -> Member:
    """A symbolic link."""
    return Member(path, SYMLINK, target=target, **more)  # type: ignore[arg-type]


def sparse(path: str, how: str, holes: dict[int, bytes], size: int) -> Member:
    """A sparse file."""
    return Member(path, sparse=how, holes=holes, size=size, dialect="gnu" if how == "gnu" else "pax")


def hide(path: str) -> Member:
    """A whiteout."""
    above, _, name = path.rpartition("/")
    return Member(f"{above}/.wh.{name}" if above else f".wh.{name}")


def opaque(path: str) -> Member:
    """The mark of an opaque directory."""
    return Member(f"{path}/.wh..wh..opq")


BASE = [
    d("./"),
    *(d("a"), d("a/b"), f("a/b/f"), f("a/b/g"), f("a/h"), sym("a/s", "b/f")),
    *(d("usr"), d("usr/lib"), f("usr/lib/x"), sym("lib", "usr/lib"), sym("abs", "/usr/lib")),
    *(
        f("one", uid=7, mode=0o4755),
        link("two", "one", uid=7, mode=0o4755),
        f("attr", xattrs={"user.x": b"1"}),
    ),
    d("attrs", xattrs={"user.old": b"old", "user.both": b"old"}),
]

# name -> layers, one on top of the other.
TORTURE: dict[str, list[list[Member]]] = {
    "names": [
        [
            *(f("d" * 99 + "/" + "e" * 100, dialect=dialect) for dialect in ("gnu", "pax")),
            f("p" * 100 + "/" + "q" * 99, dialect="ustar"),
            f("v" * 100, dialect="v7"),
            *(f(LONG + "/" + LONG), f(DEEP + "/f", dialect="gnu"), f(DEEP + "/g")),
            sym("l" * 200, "t" * 4095, dialect="gnu"),
            *(sym("short", "s" * 59), sym("long", "s" * 60), sym("spaces", " ./a//../b/ ")),
            *(link("k" * 150, LONG + "/" + LONG), link("k" * 151, LONG + "/" + LONG, dialect="gnu")),
            Member(b"bytes-\xff\xfe\n\t\x01", content=b"1"),
            Member("é/ü".encode("latin1"), content=b"2"),
            *(f("back\\slash"), f("quote'\"$`;*?"), f(" "), f("..."), f("-rf"), f("a=b\nc", dialect="gnu")),
        ]
    ],
    "places": [[f("//abs//x"), f("./d/./y"), f("d/../d2/z"), d("d3///"), f("d3//./w"), d("d4/.")]],
    "missing-parents": [
        [f("x/y/z", mode=0o600), f("x/late", uid=5), d("x/y", 0o700, uid=9)],
        [f("x/y/new/deep/f"), link("p/q/hard", "x/late", uid=5), sym("r/s/soft", "../..")],
    ],
    "sparse": [
        [
            *(sparse(f"s-{how}", how, PIECES, 1_000_000) for how in ("0.0", "0.1", "1.0")),
            *(sparse(f"many-{how}", how, MANY_PIECES, 900_000) for how in ("0.0", "0.1", "1.0")),
            *(sparse(f"hole-{how}", how, {70_000: b""}, 70_000) for how in ("0.0", "0.1", "1.0")),
            Member("head", sparse="1.0", holes={0: b"h" * 9000}, size=20_000_000),
            f("zeros", bytes(300_000)),
            f("zero-tail", b"x" * 5000 + bytes(9000)),
        ]
    ],
    "sparse-gnu": [
        [
            sparse("s", "gnu", PIECES, 1_000_000),
            sparse("many", "gnu", MANY_PIECES, 900_000),
            sparse("hole", "gnu", {70_000: b""}, 70_000),
        ]
    ],
    "links": [
        [
            *BASE,
            link("three", "two", uid=7, mode=0o4755),
            sym("dangling", "no/where"),
            link("soft2", "dangling"),
        ],
        [
            link("a/four", "three", uid=7, mode=0o4755),
            link("five", "lib/x"),
            link("six", "/one", uid=7, mode=0o4755),
        ],
        # What is linked to goes under its other names, and so does the directory where it was.
        [hide("one"), hide("two"), hide("usr"), link("a/h", "five")],
        [link("a", "five"), link("seven", "a")],
    ],
    "itself": [
        [f("one"), link("one", "one"), link("./one", "/one", mode=0o600)],
        [link("one", "one", uid=1)],
    ],
    "duplicates": [
        [
            *(f("x", b"first"), f("x", b"second, longer" * 1000), f("x", b"third")),
            *(d("y", 0o700), f("y/in"), d("y", 0o711, uid=3)),
            *(sym("z", "x"), sym("z", "y"), link("w", "x"), f("w", b"own"), f("x", b"fourth")),
        ],
        [f("x"), f("x"), link("again", "x"), link("again", "x"), hide("x"), hide("y")],
    ],
    "kinds": [
        [
            *(f("file"), d("dir"), f("dir/f"), d("dir/sub"), f("dir/sub/g"), sym("link", "dir")),
            *(Member("fifo", FIFO), Member("null", CHAR, device=(1, 3)), d("empty"), sym("todir", "dir")),
        ],
        [
            *(d("file", 0o750), f("file/now-a-dir"), f("dir", b"now a file"), d("link"), f("link/f")),
            *(f("fifo"), sym("null", "file"), Member("empty", FIFO), f("todir")),
        ],
        # Each again something else, within one layer.
        [
            d("dir"),
            f("dir/x"),
            f("dir", b"x"),
            sym("file", "dir"),
            d("file"),
            Member("link", CHAR, device=(5, 1)),
        ],
    ],
    "whiteouts": [
        BASE,
        [hide("a/b"), hide("one"), hide("nothing"), hide("lib"), hide("usr/lib/x"), f("usr/lib/y")],
        [hide("usr"), d("usr"), f("usr/fresh"), f("a/f"), hide("a/f"), hide("a/h"), d("a")],
    ],
    "whiteouts-of-ones-own": [
        BASE,
        # Before, after and in the middle: what the layer itself has stays.
        [
            d("a/b"),
            f("a/b/own"),
            hide("a/b"),
            f("a/b/more"),
            hide("a"),
            f("new"),
            hide("new"),
            f("attr"),
            hide("attr"),
        ],
    ],
    "whiteouts-below-what-is-gone": [
        BASE,
        # As umoci writes it: what took a directory's place, and then what was in that.
        [f("a", b"no directory"), hide("a/b"), hide("a/b/f"), hide("a/h"), opaque("a")],
        [sym("usr", "a"), hide("usr/lib"), hide("usr/lib/x")],
    ],
    "whiteouts-over-own-links": [
        [*BASE, d("other"), f("other/b"), f("other/h")],
        [sym("a", "other"), hide("a/b"), hide("a/h"), opaque("a"), f("a/new")],
    ],
    "opaque": [
        [*BASE, *(f(f"big/{n}") for n in range(700))],
        [
            opaque("a"),
            f("a/new"),
            f("usr/first"),
            opaque("usr"),
            f("usr/lib/own"),
            d("a/b"),
            opaque("big"),
            opaque("none"),
        ],
        [f("a/b/x"), opaque("."), f("only"), d("keep")],
    ],
    "attributes": [
        [
            *BASE,
            f("cap", xattrs={"security.capability": CAPABILITY}),
            f("acl", xattrs={"system.posix_acl_access": ACL}, mode=0o664),
            d("acl-d", xattrs={"system.posix_acl_default": ACL}),
            f("many", xattrs={f"user.{n:0>30}": bytes([n]) * n for n in range(50)}),
            f("large", xattrs={"user.large": bytes(range(256)) * 15}),
            f("odd", xattrs={"user.a": b"\0=\n", "user.empty": b"", "trusted.t": b"t", "user.é": b"1"}),
            sym("link", "cap", xattrs={"trusted.on-link": b"1", "security.x": b"2"}),
            Member("dev", CHAR, device=(1, 5), xattrs={"trusted.d": b"1"}),
        ],
        # A directory that is there takes the entry's attributes for its own; a file is another one.
        [
            d("attrs", xattrs={"user.both": b"new", "user.new": b""}),
            f("cap"),
            f("many", xattrs={"user.x": b"1"}),
            d("acl-d"),
        ],
        [d("attrs"), link("large2", "large"), d("./", xattrs={"user.root": b"1"})],
        [d("./")],
    ],
    "owners": [
        [
            *(f(f"pax-{n}", uid=n, gid=n + 1) for n in (65535, 65536, 2097151, 2097152, 4294967293)),
            *(f(f"gnu-{n}", uid=n, gid=n + 1, dialect="gnu") for n in (65536, 2097152, 4294967293)),
            *(
                f(f"mode-{mode:o}", mode=mode)
                for mode in (0, 0o7777, 0o1777, 0o2755, 0o4711, 0o100644, 0o40000)
            ),
        ]
    ],
    "times": [
        [
            *(
                f(f"pax-{s}", mtime=s * NS)
                for s in (0, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 15032385535, 2**40)
            ),
            *(f(f"neg-{s}", mtime=s * NS) for s in (-(2**31), -(2**31) - 1, -(2**40))),
            *(f(f"gnu-{s}", mtime=s * NS, dialect="gnu") for s in (-1, -(2**31), 2**33, 15032385536)),
            *(
                f(f"ns-{n}", mtime=n)
                for n in (1, -1, 1_600_000_000_123_456_789, -5_500_000_000, 2**32 * NS + 999)
            ),
            d("dir", mtime=1_234_567_890_987_654_321),
            *(f("dir/in"), sym("soft", "dir", mtime=-(10**15) + 1), Member("fifo", FIFO, mtime=77)),
        ],
        # A directory whose content changes keeps its time, as layers have all that changed.
        [f("dir/more"), hide("dir/in")],
    ],
    "devices": [
        [
            *(
                Member(f"c{a}-{b}", CHAR, device=(a, b), mode=0o660)
                for a, b in ((0, 0), (1, 3), (255, 255), (256, 1))
            ),
            *(
                Member(f"b{a}-{b}", BLOCK_DEVICE, device=(a, b))
                for a, b in ((8, 0), (259, 65536), (4095, 1048575))
            ),
            Member("fifo", FIFO, mode=0o622),
            *(link("dev-link", "c1-3", mode=0o660), link("fifo-link", "fifo", mode=0o622)),
        ],
        [hide("c1-3"), hide("fifo"), f("b8-0")],
    ],
    "root": [
        [f("x"), d("./", 0o700, uid=1, gid=2, mtime=5 * NS + 1)],
        [d("/", 0o1777, gid=3)],
        [d(".", 0o711, xattrs={"user.r": b"1"}), d("..", 0o755), f("../up")],
    ],
    "over-links": [
        BASE,
        [
            f("lib/added"),
            f("abs/sub/f"),
            hide("lib/x"),
            link("lib/hard", "abs/added"),
            d("a/s2"),
            sym("up", "../../.."),
        ],
        [f("up/etc/passwd"), sym("far", "up/a/b/../../usr"), f("far/lib/via"), opaque("abs"), f("lib/last")],
    ],
    "sizes": [
        [
            f(f"s{n}", (bytes(range(1, 252)) * (n // 251 + 1))[:n])
            for n in (1, 511, 512, 513, 4095, 4096, 4097, 262143, 262144, 262145, 1048576, 5_000_001)
        ],
        [Member("empty"), f("s4096", b"x" * 100_000), hide("s5000001"), f("again", b"y" * 3_000_000)],
    ],
    "wide": [
        [f(f"w/{n:0>40}", b"w") for n in range(2000)],
        [*(hide(f"w/{n:0>40}") for n in range(0, 2000, 2)), *(f(f"w/{n:x>60}", b"v") for n in range(700))],
        [opaque("w"), f("w/first"), link("w/second", "w/first")],
    ],
    "foreign-records": [
        [
            Member(
                "x",
                content=b"x",
                records=((b"comment", b"hello"), (b"SCHILY.dev", b"1"), (b"hdrcharset", b"BINARY")),
            ),
            Member(
                "y", content=b"y", records=(libarchive_xattr("user.y", b"\0y"),), xattrs={"user.y": b"\0y"}
            ),
            Member(
                "z", content=b"z", records=((b"size", b"1"), (b"uid", b"12"), (b"gid", b"13")), uid=12, gid=13
            ),
        ]
    ],
    "empty": [[], [], [f("x")], []],
}
