import pytest

from r2ec import schemas, sql_files
from r2ec.etl.views import open_spark_views, run_spark_query
from r2ec.warehouse_views import open_views, run_query
from tests.factories.query_cases import CASES, rounded
from tests.factories.query_warehouse import make_query_warehouse

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def engines(spark, tmp_path_factory):
    """The queries' warehouse in both engines: `(spark session, DuckDB connection)`."""
    warehouse = make_query_warehouse(tmp_path_factory.mktemp("warehouse"))
    open_spark_views(spark, warehouse)
    yield spark, open_views(warehouse)
    for name in [*schemas.TABLES, *(file.name for file in sql_files.read_folder("views"))]:
        spark.catalog.dropTempView(name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_spark_gives_the_rows_counted_by_hand(engines, case):
    spark, views = engines
    file = sql_files.find_sql(case.query)
    rows = run_spark_query(spark, file, case.values).toArrow()
    found = (tuple(row.values()) for row in rows.to_pylist())
    assert rounded(found) == rounded(case.rows)
    assert rows.schema.names == run_query(views, file, case.values).schema.names
