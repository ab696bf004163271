-- grain: none, these are functions
-- reads: nothing
-- params: none
-- Spark's names for what DuckDB calls otherwise, so that one file serves both engines.
CREATE OR REPLACE MACRO array_max(XS) AS list_max(xs);
CREATE OR REPLACE MACRO array_min(XS) AS list_min(xs);
CREATE OR REPLACE MACRO array_size(XS) AS len(xs);
CREATE OR REPLACE MACRO explode(XS) AS unnest(xs);
CREATE OR REPLACE MACRO sequence(A, B) AS generate_series(a, b);
CREATE OR REPLACE MACRO sort_array(XS) AS list_sort(xs);
CREATE OR REPLACE MACRO try_element_at(XS, I) AS list_extract(xs, i);
