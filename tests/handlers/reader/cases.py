"""Calls of the operators: `record.py` makes them of paddle_serving_app, the tests make them of pdserver.

A case takes what has the operators, and inputs by name. It returns an array, values for JSON, or a tuple of such.
Python 3.8 reads this file, too.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LABELS = ["background", "cat", "dog"]
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
FRAMES = 12


def inputs() -> dict[str, Any]:
    """By name. They are recorded with the results, since random numbers may differ between versions of numpy."""
    random = np.random.default_rng(7)
    photo = smooth(random, 37, 53)
    page = smooth(random, 70, 110)
    return {
        "photo": photo,
        "page": page,
        "png": cv2.imencode(".png", photo)[1].reshape(-1),
        "map": text_map(),
        "classes": np.kron(random.integers(0, 6, (8, 8)), np.ones((64, 64), np.int64)),
        "boxes": np.array([[1, 0.9, 2.5, 3, 20, 30.25], [2, 0.3, 10, 12, 40, 31], [0, 0.6, -1, 0, 5, 5]], np.float32),
        "shares": np.array([[1, 0.9, 0.1, 0.2, 0.5, 0.75], [2, 0.4, -0.2, 0.3, 0.8, 1.5]], np.float32),
        "decoded": np.array([[1], [1], [36], [10], [11], [35]], np.int64),
        "chances": random.random((6, 37), np.float32),
        "places": random.random((2, 9, 38), np.float32),
        "frames": np.stack([smooth(random, 18, 24) for _ in range(FRAMES)]),
    }


def smooth(random: Any, height: int, width: int) -> Any:
    """A picture whose neighbours differ little, as in photographs."""
    return cv2.resize(random.integers(0, 256, (6, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def text_map() -> Any:
    """Two pictures [2, 1, 96, 128]: one with three lines of text, an uncertain one and a speck; one with nothing."""
    chances = np.zeros((2, 1, 96, 128), np.float32)
    lines = [((30, 20), (44, 12), 0, 0.9), ((90, 30), (50, 14), 20, 0.8), ((60, 75), (70, 10), -8, 0.95)]
    for centre, size, angle, chance in [*lines, ((20, 60), (20, 12), 0, 0.4), ((110, 80), (2, 2), 0, 0.9)]:
        corners = cv2.boxPoints((centre, size, angle)).astype(np.int32)
        cv2.fillPoly(chances[0, 0], [corners], chance)
    return chances


def file(given: dict[str, Any], name: str, content: bytes) -> str:
    path = Path(given["folder"]) / name
    path.write_bytes(content)
    return str(path)


def photo(given: dict[str, Any]) -> str:
    return file(given, "photo.png", given["png"].tobytes())


def labels(given: dict[str, Any]) -> str:
    return file(given, "labels.txt", "\n".join(LABELS).encode())


def with_info(result: Any) -> Any:
    img, info = result
    return img, np.array(info["im_shape"]), info["scale_factor"]


def detected(found: Any) -> Any:
    return np.array([[box["category_id"], *box["bbox"], box["score"]] for box in found], np.float64)


def detect(r: Any, given: dict[str, Any], *operators: Any) -> Any:
    return with_info(r.DetectionSequential([r.DetectionFile2Image(), *operators])(photo(given)))


def classes(r: Any, given: dict[str, Any]) -> Any:
    r.SegPostprocess(6)({"filename": photo(given), "mask": given["classes"].reshape(1, 512, 512, 1), "mask.lod": [0]})
    return tuple(
        cv2.imread(str(Path(given["folder"]) / f"photo_png_{kind}.png"), cv2.IMREAD_UNCHANGED)
        for kind in ("mask", "result")
    )


def written(r: Any, given: dict[str, Any]) -> Any:
    folder = Path(given["folder"]) / "out"
    fetched = {"image": photo(given), "boxes": given["boxes"], "boxes.lod": [0, 3]}
    r.RCNNPostprocess(labels(given), str(folder))(fetched)
    return detected(json.loads((folder / "bbox.json").read_text()))


def text_boxes(r: Any, given: dict[str, Any], **changes: Any) -> Any:
    params = {"thresh": 0.3, "box_thresh": 0.5, "max_candidates": 1000, "unclip_ratio": 1.5}
    params.update(changes)
    found = r.DBPostProcess(params)(given["map"], [(0.5, 0.75), (1.0, 1.0)])
    return [np.array(boxes).tolist() for boxes in found]


def ocr(r: Any, given: dict[str, Any], **changes: Any) -> Any:
    path = file(given, "characters.txt", "\n".join(CHARACTERS).encode())
    return r.OCRReader(char_dict_path=path, **changes)


def lines(found: Any) -> Any:
    """Texts, and their scores if they have any."""
    return [line[0] for line in found], np.array([line[1:] for line in found], np.float64)


def video(given: dict[str, Any]) -> dict[str, Any]:
    frames = list(given["frames"])
    return {"format": "video", "backend": "cv2", "frames": frames, "frames_len": len(frames)}


def sampled(r: Any, given: dict[str, Any], *args: Any, **named: Any) -> Any:
    return r.Sampler(*args, valid_mode=True, **named)(video(given))


def imgs(results: Any) -> Any:
    return np.stack([np.asarray(img) for img in results["imgs"]])


def lac(r: Any, given: dict[str, Any]) -> Any:
    file(given, "word.dic", "0\t我\n1\t爱\n2\t北\n3\t京\n4\t!\n5\tOOV\nno columns\n".encode())
    file(given, "tag.dic", b"0\tn-B\n1\tn-I\n2\tv-B\n3\tO\n")
    file(given, "q2b.dic", "！\t!\n".encode())
    return r.LACReader(str(given["folder"]))


def senta(r: Any, given: dict[str, Any]) -> Any:
    return r.SentaReader(file(given, "senta.txt", "不错\t3\n天气\t7\n9\n\n".encode()))


def bert(r: Any, given: dict[str, Any], text: Any, **changes: Any) -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "北", "京", "un", "##aff", "##able", "cafe", "!", "[", "]"]
    path = file(given, "vocab.txt", "\n".join(words).encode())
    return r.ChineseBertReader(dict(vocab_file=path, **changes)).process(text)


def imdb(r: Any, given: dict[str, Any]) -> Any:
    dataset = r.IMDBDataset()
    dataset.load_resource(file(given, "imdb.vocab", b"good\nfilm\n,\na\n"))
    return dataset


IMAGES = {
    "File2Image": lambda r, i: r.File2Image()(photo(i)),
    "String2Image": lambda r, i: r.String2Image()(i["png"].tobytes()),
    "Base64ToImage": lambda r, i: r.Base64ToImage()(base64.b64encode(i["png"].tobytes())),
    "Base64ToImage, str": lambda r, i: r.Base64ToImage()(base64.b64encode(i["png"].tobytes()).decode()),
    "Resize, shorter side": lambda r, i: r.Resize(29)(i["photo"]),
    "Resize, of floats": lambda r, i: r.Resize(19)(i["photo"][:9].astype(np.float32) / np.float32(255)),
    "Resize, shorter side, larger": lambda r, i: r.Resize(64)(i["photo"]),
    "Resize, longer side": lambda r, i: r.Resize(29, 35)(i["photo"]),
    "Resize, both": lambda r, i: r.Resize((40, 25))(i["photo"]),
    "Resize, both, at most": lambda r, i: r.Resize((40, 25), max_size=30)(i["photo"]),
    "Resize, cubic": lambda r, i: r.Resize(29, interpolation=cv2.INTER_CUBIC)(i["photo"]),
    "Resize, area": lambda r, i: r.Resize((20, 11), interpolation=cv2.INTER_AREA)(i["photo"]),
    "CenterCrop": lambda r, i: r.CenterCrop(32)(i["photo"]),
    "CenterCrop, whole": lambda r, i: r.CenterCrop(37)(i["photo"]),
    "ResizeByFactor": lambda r, i: r.ResizeByFactor()(i["page"]),
    "ResizeByFactor, small": lambda r, i: r.ResizeByFactor()(i["photo"]),
    "ResizeByFactor, limited": lambda r, i: r.ResizeByFactor(32, max_side_len=100)(i["page"]),
    "RGB2BGR": lambda r, i: r.RGB2BGR()(i["photo"]),
    "BGR2RGB": lambda r, i: r.BGR2RGB()(i["photo"]),
    "Div": lambda r, i: r.Div(255.0)(i["photo"][:9]),
    "Normalize": lambda r, i: r.Normalize(MEAN, STD)(i["photo"][:9] / np.float32(255)),
    "Normalize, whole numbers": lambda r, i: r.Normalize([123.0, 117.0, 104.0], [1, 2, 4])(i["photo"][:9]),
    "Normalize, channels first": lambda r, i: r.Normalize(MEAN, STD, True)(
        i["photo"][:9].transpose(2, 0, 1) / np.float32(255)
    ),
    "Transpose": lambda r, i: r.Transpose((2, 0, 1))(i["photo"]),
    "PadStride": lambda r, i: r.PadStride(32)(i["photo"].transpose(2, 0, 1)),
    "PadStride, none": lambda r, i: r.PadStride(0)(i["photo"].transpose(2, 0, 1)),
    "Sequential": lambda r, i: r.Sequential(
        [
            r.File2Image(), r.Resize(34), r.CenterCrop(32), r.RGB2BGR(), r.Transpose((2, 0, 1)), r.Div(255),
            r.Normalize(MEAN, STD, True),
        ]
    )(photo(i)),
    "ImageReader": lambda r, i: r.ImageReader([3, 24, 24], resize_short_size=30).process_image(i["png"].tobytes()),
    "ImageReader, whole": lambda r, i: r.ImageReader([3, 0, 0]).process_image(i["png"].tobytes()),
}  # fmt: skip
DETECTION = {
    "DetectionFile2Image": lambda r, i: detect(r, i),
    "DetectionResize": lambda r, i: detect(r, i, r.DetectionResize(64)),
    "DetectionResize, longer side": lambda r, i: detect(r, i, r.DetectionResize((32, 40))),
    "DetectionResize, exact": lambda r, i: detect(r, i, r.DetectionResize((32, 40), False, cv2.INTER_CUBIC)),
    "DetectionBGR2RGB": lambda r, i: detect(r, i, r.DetectionBGR2RGB()),
    "DetectionDiv": lambda r, i: detect(r, i, r.DetectionDiv(255.0)),
    "DetectionSequential": lambda r, i: detect(
        r, i, r.DetectionResize((64, 64)), r.DetectionNormalize(MEAN, STD), r.DetectionTranspose((2, 0, 1)),
        r.DetectionPadStride(32),
    ),
    "DetectionNormalize, no scale": lambda r, i: detect(r, i, r.DetectionNormalize([9, 8, 7], [64, 70, 80], False)),
    "RCNNPostprocess": lambda r, i: detected(
        r.RCNNPostprocess(labels(i), str(i["folder"]))({"boxes": i["boxes"], "boxes.lod": [0, 1, 3]}, visualize=False)
    ),
    "RCNNPostprocess, nothing": lambda r, i: r.RCNNPostprocess(labels(i), str(i["folder"]))(
        {"boxes": np.zeros((1, 1), np.float32), "boxes.lod": [0, 1]}, visualize=False
    ),
    "RCNNPostprocess, file": written,
    "BlazeFacePostprocess": lambda r, i: detected(
        r.BlazeFacePostprocess(labels(i), str(i["folder"]))(
            {"boxes": i["shares"], "boxes.lod": [0, 2], "im_shape": np.array([37, 53, 3])}, visualize=False
        )
    ),
    "SegPostprocess": classes,
}  # fmt: skip
OCR = {
    "DBPostProcess": text_boxes,
    "DBPostProcess, candidates": lambda r, i: text_boxes(r, i, max_candidates=2),
    "DBPostProcess, grown": lambda r, i: text_boxes(r, i, unclip_ratio=2.5, box_thresh=0.3),
    "FilterBoxes": lambda r, i: r.FilterBoxes(10, 10)(
        np.array(
            [
                [[30, 5], [3, 5], [3, 30], [30, 30]],
                [[1, 1], [9, 1], [9, 40], [1, 40]],
                [[-9, 2], [70, 9], [60, 60], [-4, 50]],
            ]
        ),
        (37, 53),
    ),
    "SortedBoxes": lambda r, i: np.array(
        r.SortedBoxes()(np.array([[[x, y], [x + 9, y], [x + 9, y + 9], [x, y + 9]] for x, y in
                                  [(50, 12), (5, 15), (9, 80), (30, 8), (70, 85)]]))
    ),
    "GetRotateCropImage": lambda r, i: r.GetRotateCropImage()(
        i["page"], np.array([[20, 10], [100, 20], [97, 50], [17, 40]], np.float32)
    ),
    "GetRotateCropImage, high": lambda r, i: r.GetRotateCropImage()(
        i["page"], np.array([[20, 5], [40, 5], [40, 65], [20, 65]], np.float32)
    ),
    "OCRReader.resize_norm_img": lambda r, i: ocr(r, i).resize_norm_img(i["photo"], 3.7),
    "OCRReader.resize_norm_img, narrow": lambda r, i: ocr(r, i).resize_norm_img(i["page"], 1.25),
    "OCRReader.resize_norm_img, fixed": lambda r, i: ocr(r, i, char_type="en").resize_norm_img(i["photo"], 3.7),
    "OCRReader.preprocess": lambda r, i: ocr(r, i).preprocess([i["page"]]),
    "OCRReader.postprocess": lambda r, i: ocr(r, i).postprocess(
        {"ctc_greedy_decoder_0.tmp_0": i["decoded"], "ctc_greedy_decoder_0.tmp_0.lod": [0, 4, 6]}
    ),
    "OCRReader.postprocess, scores": lambda r, i: lines(ocr(r, i).postprocess(
        {
            "ctc_greedy_decoder_0.tmp_0": i["decoded"], "ctc_greedy_decoder_0.tmp_0.lod": [0, 4, 6],
            "softmax_0.tmp_0": i["chances"], "softmax_0.tmp_0.lod": [0, 2, 6],
        }, True
    )),
    "OCRReader.postprocess_ocrv2": lambda r, i: lines(
        ocr(r, i).postprocess_ocrv2({"save_infer_model/scale_0.tmp_1": np.repeat(i["places"], 2, axis=1)}, True)
    ),
}  # fmt: skip
TEXT = {
    "LACReader": lambda r, i: lac(r, i).process(" 我爱北京！天 "),
    "LACReader.label_to_ids": lambda r, i: lac(r, i).label_to_ids(["n-I", "v-B", "x"]),
    "LACReader, sizes": lambda r, i: [lac(r, i).vocab_size, lac(r, i).num_labels],
    "LACReader.parse_result": lambda r, i: lac(r, i).parse_result("我爱北京", [[0], [2], [0], [1]]),
    "LACReader.parse_result, nothing": lambda r, i: lac(r, i).parse_result("", []),
    "SentaReader": lambda r, i: senta(r, i).process(["天气", "很", "不错"]),
    "ChineseBertReader": lambda r, i: bert(r, i, "北京 Unaffable, CAFÉ!"),
    "ChineseBertReader, cut": lambda r, i: bert(r, i, "unaffable 北京京京", max_seq_len=5),
    "ChineseBertReader, special": lambda r, i: bert(r, i, "[MASK] \x01北\t京\u3000" + "x" * 101, max_seq_len=12),
    "ChineseBertReader, bytes": lambda r, i: bert(r, i, "北京".encode(), max_seq_len=8),
    "IMDBDataset": lambda r, i: imdb(r, i).get_words_only("A good,<br />GOOD\tmovie film! (a)"),
    "IMDBDataset, label": lambda r, i: list(imdb(r, i).get_words_and_label("a | good film|1")),
}
VIDEO = {
    "Sampler": lambda r, i: imgs(sampled(r, i, 4, 2)),
    "Sampler, short": lambda r, i: imgs(sampled(r, i, 8, 2)),
    "Sampler, shorter": lambda r, i: imgs(sampled(r, i, 20, 1)),
    "Sampler, left": lambda r, i: imgs(sampled(r, i, 5, 1, select_left=True)),
    "Sampler, equal distances": lambda r, i: imgs(sampled(r, i, 5, 1, linspace_sample=True)),
    "Sampler, interval": lambda r, i: imgs(sampled(r, i, 2, 3, frame_interval=2)),
    "Sampler, interval, short": lambda r, i: imgs(sampled(r, i, 2, 8, frame_interval=3)),
    "Scale": lambda r, i: imgs(r.Scale(12)(sampled(r, i, 3, 1))),
    "Scale, square": lambda r, i: imgs(r.Scale(12, fixed_ratio=False)(sampled(r, i, 3, 1))),
    "Scale, in proportion": lambda r, i: imgs(
        r.Scale(12, fixed_ratio=False, keep_ratio=True, do_round=True)(sampled(r, i, 3, 1))
    ),
    "Scale, as trained": lambda r, i: imgs(r.Scale(12, fixed_ratio=False, keep_ratio=True)(sampled(r, i, 3, 1))),
    "Scale, OpenCV": lambda r, i: imgs(r.Scale(12, backend="cv2")(sampled(r, i, 3, 1))),
    "CenterCrop": lambda r, i: imgs(r.VideoCenterCrop(11)(sampled(r, i, 3, 1))),
    "CenterCrop, down": lambda r, i: imgs(r.VideoCenterCrop(15, do_round=False)(sampled(r, i, 3, 1))),
    "TenCrop": lambda r, i: imgs(r.TenCrop(9)(sampled(r, i, 2, 1))),
    "Image2Array": lambda r, i: imgs(r.Image2Array()(sampled(r, i, 2, 1))),
    "Image2Array, cthw": lambda r, i: imgs(r.Image2Array(data_format="cthw")(sampled(r, i, 2, 1))),
    "Image2Array, as it is": lambda r, i: imgs(r.Image2Array(transpose=False)(sampled(r, i, 2, 1))),
    "Sequential": lambda r, i: imgs(r.Sequential(
        [
            r.Sampler(3, 1, valid_mode=True), r.Scale(16), r.VideoCenterCrop(14), r.Image2Array(),
            r.Normalization(MEAN, STD),
        ]
    )(video(i))),
    "Normalization, in place": lambda r, i: r.Normalization([9.0, 8.0, 7.0], STD, inplace=True)(
        {"imgs": list(i["frames"][:2])}
    )["imgs"],
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "images": IMAGES,
    "detection": DETECTION,
    "ocr": OCR,
    "text": TEXT,
    "video": VIDEO,
}
INPUTS = {
    "images": ("photo", "page", "png"),
    "detection": ("png", "boxes", "shares", "classes"),
    "ocr": ("photo", "page", "map", "decoded", "chances", "places"),
    "text": (),
    "video": ("frames",),
}
"""What each family's cases take."""
