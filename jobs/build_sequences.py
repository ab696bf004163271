"""Build sequences and histories from the log and the catalog.

spark-submit [--py-files dist/r2ec.zip] jobs/build_sequences.py --interactions PATH…
    --warehouse ROOT [--date D] [--window 20] [--mapping FILE] (--help lists everything)
"""

import sys

try:
    from r2ec.etl.arguments import parse_sequences_job
    from r2ec.etl.entry import main
    from r2ec.etl.job_plans import plan_sequences
    from r2ec.etl.sequences_job import run
except ModuleNotFoundError as error:
    sys.exit(
        f"error: no module {error.name!r}: install the package with its 'spark' extra, or run "
        "spark-submit --py-files dist/r2ec.zip (made by `make dist`) with pyspark and pyarrow"
    )

if __name__ == "__main__":
    main(parse_sequences_job, run, plan_sequences)
