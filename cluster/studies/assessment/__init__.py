"""The steps of an assessment, one after the other, and where they are done. What is asked, planned and judged is in
`eexit.studies.assessment`.
"""
