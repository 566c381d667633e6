"""Writers of small scans in the formats that HyperSpy reads and does not write; patterns are (y, x, rows, columns)."""

import struct

import h5py
import numpy as np

#: How much of a file's beginning is the header that its writer makes
MRC_HEADER = 1024


def write_mib(path, patterns, frames=None):
    """Quantum Detectors' Merlin: 16 bit, big-endian, a header of text before each frame, the last row first; and .hdr.

    `frames`, of the acquisition, are by default as many as there are.
    """
    *shape, rows, columns = patterns.shape
    with open(path, "wb") as file:
        for i, pattern in enumerate(patterns.reshape(-1, rows, columns)):
            texts = ["MQ1", f"{i + 1:06d}", "00384", "01", f"{columns:04d}", f"{rows:04d}", "U16", "   1x1", "01",
                     "2020-05-18 16:51:49.971626", "0.000555", "0", "0", "0", "1.2E+2", "5.11E+2", *["0"] * 30, "MQ1A",
                     f"2020-05-18T14:51:{49 + i // shape[-1]:02d}.{i:09d}Z", "555000ns", "12"]  # fmt: skip
            file.write((",".join(texts) + ",").encode().ljust(384, b"\0"))
            file.write(pattern[::-1].astype(">u2").tobytes())
    n = int(np.prod(shape)) if frames is None else frames
    path.with_suffix(".hdr").write_text(
        f"HDR,\t\nFrames in Acquisition (Number):\t{n}\nFrames per Trigger (Number):\t{shape[-1]}\nEnd\t"
    )


def write_mrc(path, patterns, byte_order="<"):
    """MRC 2014, 16 bit without sign: a stack of images, with the stamp of the order of bytes."""
    *shape, rows, columns = patterns.shape
    n = int(np.prod(shape))
    header = np.zeros(MRC_HEADER // 4, byte_order + "i4")
    header[:4] = columns, rows, n, 6
    header[7:10] = columns, rows, n
    stamp = {"<": b"\x44\x44\0\0", ">": b"\x11\x11\0\0"}[byte_order]
    raw = header.tobytes()
    path.write_bytes(raw[:212] + stamp + raw[216:] + patterns.astype(byte_order + "u2").tobytes())


def write_empad(path, patterns):
    """EMPAD: frames of 130 x 128 numbers of 32 bit, of which the last two rows are no picture, and .xml."""
    *shape, rows, columns = patterns.shape
    frames = np.zeros((*shape, 130, 128), "<f4")
    frames[..., :128, :] = patterns
    frames[..., 128:, :] = np.nan
    raw = path.with_name(f"scan_x{shape[1]}_y{shape[0]}.raw")
    raw.write_bytes(frames.tobytes())
    path.write_text(
        f'<root><raw_file filename="{raw.name}"/><pix_x>{shape[1]}</pix_x><pix_y>{shape[0]}</pix_y>'
        "<iom_measurements/></root>"
    )
    return raw


def write_dm4(path, patterns, little_endian=True):
    """Gatan's DigitalMicrograph 4: the few tags without which RosettaSciIO reads nothing."""
    order = "<" if little_endian else ">"

    def named(name, kind, content):
        return struct.pack(">bh", kind, len(name)) + name.encode() + struct.pack(">q", len(content)) + content

    def group(name, *entries):
        return named(name, 20, struct.pack(">bbq", 1, 0, len(entries)) + b"".join(entries))

    def number(name, kind, value):
        code = {"I": 5, "f": 6}[kind]
        return named(name, 21, b"%%%%" + struct.pack(">qq", 1, code) + struct.pack(order + kind, value))

    def array(name, values):
        return named(name, 21, b"%%%%" + struct.pack(">qqqq", 3, 20, 4, values.size) + values.tobytes())

    def axis(scale, units):
        letters = np.array([ord(c) for c in units], order + "u2")
        return group("", number("Origin", "f", 0.0), number("Scale", "f", scale), array("Units", letters))

    image = group(
        "",
        group(
            "ImageData",
            group(
                "Calibrations",
                group("Brightness", number("Origin", "f", 0.0), number("Scale", "f", 1.0), array("Units", np.zeros(0))),
                group("Dimension", *(axis(0.02, "1/A") for _ in range(2)), *(axis(5.0, "nm") for _ in range(2))),
            ),
            array("Data", patterns.astype(order + "u2")),
            number("DataType", "I", 10),
            group("Dimensions", *(number("", "I", n) for n in patterns.shape[::-1])),
            number("PixelDepth", "I", 2),
        ),
        group("ImageTags"),
    )
    root = group("ImageList", image)
    path.write_bytes(struct.pack(">iqi", 4, len(root), little_endian) + struct.pack(">bbq", 1, 0, 1) + root)


def write_arina(path, patterns, n_files=2, asked=None, compression="gzip", energy=200_000.0):
    """DECTRIS' ARINA: a master file with links to files of frames; `asked` are triggers, and images of each."""
    *shape, rows, columns = patterns.shape
    frames = patterns.reshape(-1, rows, columns).astype("u2")
    with h5py.File(path, "w") as master:
        specific = "entry/instrument/detector/detectorSpecific"
        triggers, images = shape if asked is None else asked
        master[f"{specific}/ntrigger"], master[f"{specific}/nimages"] = triggers, images
        master[f"{specific}/pixel_mask"] = np.zeros((rows, columns), "u4")
        master["entry/instrument/beam/incident_energy"] = energy
        data = master.create_group("entry/data")
        for i, part in enumerate(np.array_split(frames, n_files), start=1):
            name = path.name.replace("_master", f"_data_{i:06d}")
            settings = {"compression": compression} if isinstance(compression, str) else dict(compression)
            with h5py.File(path.with_name(name), "w") as file:
                file.create_dataset("entry/data/data", data=part, chunks=(1, rows, columns), **settings)
            data[f"data_{i:06d}"] = h5py.ExternalLink(name, "entry/data/data")
