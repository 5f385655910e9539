"""The rows of a batch: which one shows a user in a view, and what stands in it."""

from mmprofile.inputs.batch import Batch
from mmprofile.model.model import ProfileModel


def words(model: ProfileModel, batch: Batch, row: int) -> str:
    """Return the text of a row, special tokens included."""
    ids = batch.text_ids.flatten()[batch.row_tokens[row][batch.row_tokens[row] >= 0]]
    return model.tokenizer.decode(ids.tolist()).strip()


def row_of(batch: Batch, user: int, view: str) -> int:
    """Return the row that shows a user in a view."""
    v = [shown.name for shown in batch.views].index(view)
    return int(((batch.row_user == user) & (batch.row_view == v)).nonzero())
