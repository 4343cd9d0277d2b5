//! An application whose sessions have an organization and factors.

use ephemeral_postgres::TestDatabase;
use tower_user_session::{
    BoxError, Error, LookupRow, PgSessionStore, PgUser, SessionService, SignedIn,
    store::{MemorySessionRow, MemorySessionStore},
};

use super::{
    database::pool,
    requests::current,
    users::{USERS, two_limits},
};

/// The organizations, and the application's columns of the sessions table.
const COLUMNS: &str = "
    CREATE TABLE orgs (
        id bigint PRIMARY KEY,
        name text NOT NULL,
        suspended_at timestamptz
    );
    INSERT INTO orgs (id, name) VALUES (7, 'seven'), (8, 'eight');
    ALTER TABLE sessions
        ADD COLUMN active_org_id bigint REFERENCES orgs ON DELETE SET NULL,
        ADD COLUMN factors text[] CHECK (cardinality(factors) < 4);
";

/// A user in the organization of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: i64,
    pub org_id: Option<i64>,
    pub factors: Option<Vec<String>>,
}

pub const MEMBER_COLUMNS: &[&str] = &["active_org_id", "factors"];

impl PgUser for Member {
    type Id = i64;
    const SESSION_COLUMNS: &'static [&'static str] = MEMBER_COLUMNS;
    const COLUMNS: &'static str = "u.id, o.id AS org_id";
    const FROM: &'static str =
        "users AS u LEFT JOIN orgs AS o ON o.id = live_session.active_org_id";
    const CONDITION: &'static str = "u.disabled_at IS NULL AND o.suspended_at IS NULL";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        let org_id = row.user().get("org_id")?;
        assert_eq!(org_id, row.session().get("active_org_id")?);
        Ok(Self {
            id: row.user().get("id")?,
            org_id,
            factors: row.session().get("factors")?,
        })
    }
}

impl Member {
    /// This user, without an organization and without factors.
    pub const fn new(id: i64) -> Self {
        Self {
            id,
            org_id: None,
            factors: None,
        }
    }

    pub const fn of(id: i64, org_id: i64) -> Self {
        Self {
            id,
            org_id: Some(org_id),
            factors: None,
        }
    }

    pub fn apply(&mut self, row: &MemorySessionRow<'_>) -> Result<(), BoxError> {
        self.org_id = row.get("active_org_id")?;
        self.factors = row.get("factors")?;
        Ok(())
    }
}

pub type PgMembers = SessionService<PgSessionStore<Member>>;

pub type MemoryMembers = SessionService<MemorySessionStore<i64, Member>>;

/// A database with the session columns and both kinds of triggers.
pub async fn organizations() -> TestDatabase {
    let database = TestDatabase::create(USERS).await;
    let store = PgSessionStore::<Member>::new(pool(&database, 1));
    store.migrate().notify_on_user_change().await.unwrap();
    let client = database.client().await;
    client.batch_execute(COLUMNS).await.unwrap();
    store.check().await.unwrap();
    database
}

pub fn member_store(database: &TestDatabase) -> PgSessionStore<Member> {
    PgSessionStore::new(pool(database, 4)).with_lifetime(two_limits())
}

pub fn members(database: &TestDatabase) -> PgMembers {
    SessionService::new(member_store(database))
}

pub fn memory_member_store() -> MemorySessionStore<i64, Member> {
    let store = MemorySessionStore::new()
        .with_lifetime(two_limits())
        .with_session_columns(MEMBER_COLUMNS, Member::apply);
    store.add_user(1, Member::new(1));
    store.add_user(2, Member::new(2));
    store
}

/// Signs user 1 in, in organization 7.
pub async fn signed_in(sessions: &PgMembers) -> SignedIn {
    let sign_in = sessions.sign_in_without_request(1);
    sign_in.set("active_org_id", 7_i64).await.unwrap()
}

pub async fn set_factor(
    sessions: &PgMembers,
    signed_in: &SignedIn,
    factor: &str,
) -> Result<(), Error> {
    let update = sessions.update(&current(signed_in));
    update.set("factors", vec![factor.to_owned()]).await
}
