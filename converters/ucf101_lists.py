"""UCF-101's official class names and split lists.

Source: ucfTrainTestlist/ of UCF101TrainTestSplits-RecognitionTask.zip. `testlist01.txt` holds `<Class>/<file>`,
`trainlist01.txt` the same and a class number; some copies have CRLF line ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from phi3v.schema import UserError

CLASSES = tuple(
    """
    ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch Basketball
    BasketballDunk BenchPress Biking Billiards BlowDryHair BlowingCandles BodyWeightSquats Bowling BoxingPunchingBag
    BoxingSpeedBag BreastStroke BrushingTeeth CleanAndJerk CliffDiving CricketBowling CricketShot CuttingInKitchen
    Diving Drumming Fencing FieldHockeyPenalty FloorGymnastics FrisbeeCatch FrontCrawl GolfSwing Haircut Hammering
    HammerThrow HandstandPushups HandstandWalking HeadMassage HighJump HorseRace HorseRiding HulaHoop IceDancing
    JavelinThrow JugglingBalls JumpingJack JumpRope Kayaking Knitting LongJump Lunges MilitaryParade Mixing
    MoppingFloor Nunchucks ParallelBars PizzaTossing PlayingCello PlayingDaf PlayingDhol PlayingFlute PlayingGuitar
    PlayingPiano PlayingSitar PlayingTabla PlayingViolin PoleVault PommelHorse PullUps Punch PushUps Rafting
    RockClimbingIndoor RopeClimbing Rowing SalsaSpin ShavingBeard Shotput SkateBoarding Skiing Skijet SkyDiving
    SoccerJuggling SoccerPenalty StillRings SumoWrestling Surfing Swing TableTennisShot TaiChi TennisSwing
    ThrowDiscus TrampolineJumping Typing UnevenBars VolleyballSpiking WalkingWithDog WallPushups WritingOnBoard YoYo
    """.split()  # noqa: SIM905  # 101 quoted lines read worse
)


class Entry(NamedTuple):
    """What a list says of a clip."""

    label: str
    split: str


def read_lists(folder: Path, number: str) -> dict[str, Entry]:
    """Return the clips of one official split: lower-case file name -> its class and `train` or `test`.

    Lower case, since the lists, the folders and the files do not agree on it (`HandstandPushups/v_HandStandPushups_*`).

    Raises:
        UserError: a list is missing, or a line is not `<Class>/<file>`.
    """
    entries = {}
    for split in ("train", "test"):
        path = folder / f"{split}list0{number}.txt"
        if not path.is_file():
            raise UserError("no such list", where=path, fix="point --split_lists at the folder ucfTrainTestlist")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read this list ({error})", where=path, fix="fetch it again") from error
        for line, text in enumerate(lines, 1):
            if not text.strip():
                continue
            label, _, name = text.split()[0].partition("/")
            if not name:
                raise UserError(f"{text!r} is not <Class>/<file>", where=f"{path}:{line}", fix="fetch the list again")
            entries[name.lower()] = Entry(label, split)
    return entries
