"""Reviews of hotels in Chinese, put together from what guests say of rooms, breakfast, reception, place and price."""

from __future__ import annotations

import random

SEED = 17
LABELS = ("negative", "positive")

PRAISE_AND_BLAME: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "房间": (("干净", "宽敞", "舒适", "明亮", "温馨"), ("脏乱", "狭小", "潮湿", "陈旧", "阴暗")),
    "早餐": (("丰富", "可口", "新鲜", "好吃"), ("单调", "难吃", "冰凉", "油腻")),
    "前台": (("热情", "周到", "耐心", "友好"), ("冷淡", "敷衍", "傲慢", "粗鲁")),
    "服务": (("热情", "周到", "贴心", "专业"), ("冷淡", "敷衍", "糟糕", "拖拉")),
    "位置": (("方便", "理想", "好找"), ("偏僻", "难找", "糟糕")),
    "价格": (("合理", "实惠", "划算"), ("离谱", "虚高", "太贵")),
    "床": (("舒服", "柔软", "干净"), ("太硬", "难受", "潮湿")),
    "空调": (("安静", "好用"), ("吵闹", "难用")),
}
"""What is spoken of → words of praise, words of blame."""
WHOSE = ("", "", "酒店的", "这家的", "这里的")
VERY = ("", "", "很", "非常", "真", "特别", "挺", "十分")
NOT = ("不", "不太", "并不", "一点也不")
SUMS = (
    ("值得推荐", "下次还会来", "物超所值", "我很喜欢", "住得很开心", "全家都满意"),
    ("不推荐", "再也不来了", "浪费钱", "让人失望", "睡不好", "想马上退房"),
)
"""What good reviews and bad ones end with."""
BUT, AND = ("但是", "不过", "可是"), ("，", "，而且", "，", "，还有")
END = ("", "。", "！", "。。。")


def clause(rng: random.Random, good: bool) -> str:
    """What a guest says of one thing; a word may be denied, which turns it around."""
    thing = rng.choice([*PRAISE_AND_BLAME])
    praise, blame = PRAISE_AND_BLAME[thing]
    if rng.random() < 0.2:
        return rng.choice(WHOSE) + thing + rng.choice(NOT) + rng.choice(blame if good else praise)
    return rng.choice(WHOSE) + thing + rng.choice(VERY) + rng.choice(praise if good else blame)


def review(rng: random.Random) -> tuple[str, int]:
    """A text, and 1 if it is positive, else 0. What comes after a "but" is what counts."""
    good = rng.random() < 0.5
    form = rng.random()
    if form < 0.35:
        text = clause(rng, good)
    elif form < 0.5:
        text = clause(rng, good) + rng.choice(AND) + clause(rng, good)
    elif form < 0.7:
        text = clause(rng, not good) + "，" + rng.choice(BUT) + clause(rng, good)
    elif form < 0.9:
        text = clause(rng, good) + "，" + rng.choice(SUMS[0 if good else 1])
    else:
        text = rng.choice(SUMS[0 if good else 1])
    return text + rng.choice(END), int(good)


def characters() -> list[str]:
    """All that reviews are written with."""
    words = [*PRAISE_AND_BLAME, *WHOSE, *VERY, *NOT, *BUT, *AND, *END, *SUMS[0], *SUMS[1]]
    words += [word for both in PRAISE_AND_BLAME.values() for side in both for word in side]
    return sorted(set("".join(words)))
