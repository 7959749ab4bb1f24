"""Images worth looking at: the most confident errors, the smallest margins, and labels that may be wrong.

"Label issue" is cleanlab's word for a label that a network contradicts (Northcutt et al., "Confident Learning", 2021).
It means something only for images that the network was not trained on: one trained on a wrong label repeats it.
"""

from torch import Tensor

CONFIDENT = 0.9  # probability of another class from which on a label is an issue


def confident_errors(probabilities: Tensor, labels: Tensor) -> list[int]:
    """Return the indices of wrong predictions, the most confident first."""
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != labels).nonzero().flatten()
    return wrong[confidence[wrong].argsort(descending=True, stable=True)].tolist()


def smallest_margins(probabilities: Tensor) -> list[int]:
    """Return the indices of all images, those with the smallest lead of the first class over the second first."""
    first, second = probabilities.topk(2, dim=1).values.unbind(1)
    return (first - second).argsort(stable=True).tolist()


def label_issues(probabilities: Tensor, labels: Tensor) -> list[int]:
    """Return the indices of images whose probability of another class than the label is at least CONFIDENT."""
    confidence = probabilities.max(1).values
    return [index for index in confident_errors(probabilities, labels) if confidence[index] >= CONFIDENT]
