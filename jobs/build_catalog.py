"""Build one version of the catalog from item metadata and the log.

spark-submit [--py-files dist/r2ec.zip] jobs/build_catalog.py --items PATH… --interactions PATH…
    --warehouse ROOT [--version D] [--mapping FILE]            (--help lists everything)
"""

import sys

try:
    from r2ec.etl.arguments import parse_catalog_job
    from r2ec.etl.catalog_job import run
    from r2ec.etl.entry import main
    from r2ec.etl.job_plans import plan_catalog
except ModuleNotFoundError as error:
    sys.exit(
        f"error: no module {error.name!r}: install the package with its 'spark' extra, or run "
        "spark-submit --py-files dist/r2ec.zip (made by `make dist`) with pyspark and pyarrow"
    )

if __name__ == "__main__":
    main(parse_catalog_job, run, plan_catalog)
