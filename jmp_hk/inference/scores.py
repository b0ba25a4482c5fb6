"""Metrics of predictions that are all at hand, in float64."""

import numpy as np
from sklearn import metrics as sklearn_metrics


def regression(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
  """Mean absolute error, root mean square error and coefficient of determination.

  Args:
    labels: values of any shape.
    predictions: likewise.

  Returns:
    "mae" and "rmse" in the unit of the values; "r2", which is NaN where the labels do
    not vary.
  """
  labels = np.asarray(labels, np.float64).ravel()
  error = np.asarray(predictions, np.float64).ravel() - labels
  squares = np.square(error).sum()
  variation = np.square(labels - labels.mean()).sum()
  return {
    "mae": float(np.abs(error).mean()),
    "rmse": float(np.sqrt(squares / len(error))),
    "r2": float(1 - squares / variation) if variation > 0 else float("nan"),
  }


def classification(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
  """Metrics of classes.

  Args:
    labels: [n] classes.
    probabilities: [n, classes].

  Returns:
    "cross_entropy" in nat, "accuracy", "f1" (of class 1 where there are two, else the
    mean over classes) and, where all classes occur, "auc" (area under the ROC curve;
    of more than two classes the mean of each against the rest).
  """
  num_classes = probabilities.shape[1]
  chosen = probabilities.argmax(axis=1)
  of_label = probabilities[np.arange(len(labels)), labels]
  result = {
    "cross_entropy": float(-np.log(np.maximum(of_label, 1e-12)).mean()),
    "accuracy": float((chosen == labels).mean()),
    "f1": float(
      sklearn_metrics.f1_score(
        labels,
        chosen,
        average="binary" if num_classes == 2 else "macro",
        zero_division=0,  # pyright: ignore[reportArgumentType]
      )
    ),
  }
  if len(np.unique(labels)) == num_classes:
    score = probabilities[:, 1] if num_classes == 2 else probabilities
    result["auc"] = float(
      sklearn_metrics.roc_auc_score(labels, score, multi_class="ovr")
    )
  return result
