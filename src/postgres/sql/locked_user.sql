-- The key of the user as the users table spells it. Equal keys can have several spellings. All
-- operations of a user must acquire the same lock, whatever the values of session columns are.
-- Therefore the key is read while the session columns are null.
SELECT k.key::pg_catalog.text
FROM :new_session LATERAL (SELECT :key FROM :from WHERE :key :equals :user_id LIMIT 1) AS k (key)
