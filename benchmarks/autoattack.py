"""AutoAttack that can be killed, resumed and divided, against pyautoattack called plainly: whether verdicts agree, and the time.

    python benchmarks/autoattack.py runs/mine      # 500 of the run's test images: eight to ten times a whole AutoAttack
    python benchmarks/autoattack.py runs/mine --images 40 --kills 3 --queries 100      # to see that it works

The pieces are in pieces.py; a finished one is kept in a folder beside the JSON and not made again. Another run of another network
is another entry of the same JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from pieces import COSTS, PIECES, Piece, Work, all_pieces, network
from side_by_side import machine, ratio

from faal_lab.catalogue import FILTERS
from faal_lab.data.images import Images
from faal_lab.data.sets import load
from faal_lab.evaluation.suite import data_digest, model_digest
from faal_lab.training.restore import load_model

# Which pieces are compared. Those of SAME must agree in every image; those of APART show how far seeds and modes lie apart.
SAME = (
    ("compat, seed 0", "upstream, seed 0"), ("compat, seed 1", "upstream, seed 1"),
    ("killed", "per-image"), ("two parts", "per-image"), ("other order", "per-image"),
)  # fmt: skip
APART = (
    ("upstream, seed 0", "upstream, seed 1"), ("per-image", "upstream, seed 0"), ("per-image", "upstream, seed 1"),
)  # fmt: skip
_LATE = 0.1  # seconds into a batch from which a kill counts as one in the middle of it


def evenly(images: Images, count: int, num_classes: int) -> Images:
    """`count` images, of each class as many as of any other or one more, the classes in turn."""
    places = [(images.labels == c).nonzero().flatten().tolist() for c in range(num_classes)]
    most = num_classes * min(map(len, places))
    if count > most:
        raise SystemExit(f"{count} images asked for; there are {most} of all classes alike. Use --images {most}.")
    turns = [place[n] for n in range(max(map(len, places))) for place in places if n < len(place)]
    return images.part(torch.tensor(turns[:count]))


def differing(one: Piece, other: Piece, labels: list[int]) -> dict[str, int]:
    """In how many images two pieces differ: in the verdict (robust or not), and in the class that it was taken for."""
    pairs = [(a, b) for a in one["found"] for b in other["found"]]
    images = range(len(labels))
    verdicts = {n for a, b in pairs for n in images if (a[n] == labels[n]) != (b[n] == labels[n])}
    return {"verdicts": len(verdicts), "classes": len({n for a, b in pairs for n in images if a[n] != b[n]})}


def summary(done: dict[str, Piece], labels: list[int]) -> Piece:
    """What the pieces say; pairs of which one was not asked for are left out."""
    whole = {name: piece for name, piece in done.items() if name not in ("by turns", "edge")}
    found: Piece = {"robust": {n: sum(a == b for a, b in zip(p["found"][0], labels, strict=True)) for n, p in whole.items()}}
    for title, pairs in (("must agree", SAME), ("may differ", APART)):
        here = [pair for pair in pairs if set(pair) <= set(done)]
        found[title] = {f"{a} / {b}": differing(done[a], done[b], labels) for a, b in here}
    if "by turns" in done:
        turns = done["by turns"]
        found["rounds"] = {key: turns[key] for key in COSTS}
        found["differing rounds"] = sum(a != b for a, b in zip(*turns["found"].values(), strict=True))
        found["times longer than upstream"] = {key: ratio(turns[key]["ours"], turns[key]["upstream"]) for key in COSTS}
    if "edge" in done:
        found["images at the edge"] = done["edge"]
    if "per-image" in done:
        after = done["per-image"]["after"]
        found["robust after"] = {name: sum(a == b for a, b in zip(c, labels, strict=True)) for name, c in after.items()}
        found["batches"] = done["per-image"]["batches"]
    if "two parts" in done:
        found["batches of each part"] = done["two parts"]["batches of each"]
    if "killed" in done:
        kills = done["killed"]["kills"]
        late = sum(kill["seconds lost"] > _LATE for kill in kills)
        ended = len(done["killed"]["found"])
        found["kills"] = {"in a batch": late, "between two": len(kills) - late, "ended": ended, "each": kills}
    return found


def table(entry: Piece) -> str:
    """What a terminal shows."""
    lines = [f"{entry['network']} on {entry['images']} images of {entry['data']}; robust at last: {entry['robust']}"]
    for title in ("must agree", "may differ"):
        lines += [f"  {title}: {pair}: {n['verdicts']} verdicts, {n['classes']} classes" for pair, n in entry[title].items()]
    for key, times in entry.get("times longer than upstream", {}).items():
        lines.append("  {key}, ours / upstream: {median:.3f} ({low:.3f} to {high:.3f})".format(key=key, **times))
    if "images at the edge" in entry:
        lines.append("  images at the edge, broken with {seeds} seeds: {broken}".format_map(entry["images at the edge"]))
    if "kills" in entry:
        lines.append(f"  kills: {entry['kills']['in a batch']} in a batch, {entry['kills']['between two']} between two")
    return "\n".join(lines)


def prepared(options: argparse.Namespace, out: Path) -> tuple[Work, Piece]:
    """The work that the options ask for, with a folder named by all that it depends on; and what is told of it."""
    model, config, _ = load_model(options.run)
    splits = load(
        config.data, seed=config.split_seed, data_dir=config.data_dir, image_size=config.image_size, validation=config.validation
    )
    images = evenly(splits.test, options.images, splits.num_classes)
    setting = {
        "epsilon": options.epsilon or config.epsilon, "norm": config.norm, "num_classes": splits.num_classes,
        "batch_size": options.batch_size, "queries": options.queries,
    }  # fmt: skip
    told = {
        "data": options.data_name or splits.name, "images": len(images), "network": config.model,
        "filters": config.filters or FILTERS.get(config.model, 0),
        "objective": config.objective, "epochs": config.epochs, **setting,
    }  # fmt: skip
    identity = json.dumps([model_digest(model), data_digest(images), setting, options.kills])
    folder = out.parent / f"{out.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    work = Work(str(Path(options.run).resolve()), network(options.run), images, setting, folder)
    work.write()
    return work, told


def main() -> None:
    """Make the pieces, print what they say, and write it to the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="a run folder, whose test images are attacked")
    parser.add_argument("--epsilon", type=float, default=None, help="the radius (default: the run's own)")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--queries", type=int, default=5000, help="of Square; fewer is not AutoAttack-standard")
    parser.add_argument("--batch-size", type=int, default=10, help="small, so that there are many batches to kill between")
    parser.add_argument("--pieces", default="", help=f"some of them, by semicolons: {'; '.join(PIECES)}")
    parser.add_argument("--data-name", default="", help="what the images are called in the JSON")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    wanted = {part.strip() for part in options.pieces.split(";") if part.strip()} or set(PIECES)
    if unknown := wanted - set(PIECES):
        raise SystemExit(f"No piece is called {', '.join(unknown)}. There are: {'; '.join(PIECES)}.")
    needed = wanted | ({"per-image"} if {"killed", "two parts"} & wanted else set())
    needed |= {"per-image", "upstream, seed 0", "upstream, seed 1"} if "edge" in wanted else set()
    needed |= {"compat, seed 0"} if any(name.startswith("upstream") for name in needed) else set()
    work, told = prepared(options, options.out)
    done = all_pieces(work, [name for name in PIECES if name in needed], options.kills)
    entry = {"machine": machine(), **told, **summary(done, work.images.labels.tolist())}
    print(table(entry))
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result[f"{told['network']}, {told['filters']} filters, on {told['data']}"] = entry
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten: {options.out}")


if __name__ == "__main__":
    main()
