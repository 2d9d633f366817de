"""Checks over nets, each with a stable code and a page of its own."""

from caffestat.options import SEVERITIES

from .baseline import Baseline, read_baseline, refuse_other, to_baseline
from .config import Config, find_config, read_config
from .context import Limits
from .fix import Fixed, diff_of, fix_file
from .formats import FORMATS, render
from .issue import Issue
from .pages import all_pages, page
from .registry import Check, all_checks, find_check, selected
from .run import Checked, Job, Unchecked, check_file, check_files, check_opened, find_nets

__all__ = [
    "FORMATS",
    "SEVERITIES",
    "Baseline",
    "Check",
    "Checked",
    "Config",
    "Fixed",
    "Issue",
    "Job",
    "Limits",
    "Unchecked",
    "all_checks",
    "all_pages",
    "check_file",
    "check_files",
    "check_opened",
    "diff_of",
    "find_check",
    "find_config",
    "find_nets",
    "fix_file",
    "page",
    "read_baseline",
    "read_config",
    "refuse_other",
    "render",
    "selected",
    "to_baseline",
]
