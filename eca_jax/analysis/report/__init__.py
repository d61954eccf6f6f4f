"""Where a classifier errs: one page for people, its figures, and the same as JSON."""

from eca_jax.analysis.report.judging import EXAMPLES, Judging
from eca_jax.analysis.report.run import report_of_run, write_run_report
from eca_jax.analysis.report.write import write_report

__all__ = ["EXAMPLES", "Judging", "report_of_run", "write_report", "write_run_report"]
