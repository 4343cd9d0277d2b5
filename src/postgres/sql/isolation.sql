-- The condition that each statement of the transaction sees what others have committed before it.
pg_catalog.current_setting('transaction_isolation')
OPERATOR(pg_catalog.=) ANY ('{read committed,read uncommitted}'::pg_catalog.text[])
