"""Errors keep what they say on their way from a worker process."""

import pickle

from features.errors import InvalidParameterError, TowncastError, UnknownNameError


def test_errors_survive_pickling() -> None:
    plain = TowncastError("A fact", found=3, remedy="A remedy.")
    parameter = InvalidParameterError(
        parameter="hours", provided=0, allowed="1 or more", fact="No hours", remedy="Give one.", nearest=["hour"]
    )
    unknown = UnknownNameError(kind="road", name="R1", nearest=["R2"], known=["R2", "R3"])
    for error in (plain, parameter, unknown):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)
