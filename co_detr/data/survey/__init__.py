"""What a data set holds, and what is wrong with it: `survey`, then as text or as a page."""

from .survey import Survey, SurveyedSplit, survey

__all__ = ["Survey", "SurveyedSplit", "survey"]
