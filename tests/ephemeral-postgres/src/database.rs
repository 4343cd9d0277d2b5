use std::panic;
use std::time::Duration;
use std::{fmt, thread};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use crate::name::new_name;
use crate::{Error, Server, Source, url};

/// A separate database for one test.
///
/// On a private server it is a copy of a template in which the setup ran once, and it is removed
/// with the server. On a server from a variable, the setup runs in each database, so that no
/// template remains, and the database is dropped with this value.
pub struct TestDatabase {
    name: String,
    config: Config,
    url: String,
    /// How to connect in order to drop the database, if that is needed.
    drop_through: Option<Config>,
}

impl TestDatabase {
    /// Creates a database on [`Server::for_tests`] and runs `setup_sql`, any number of statements,
    /// in it.
    ///
    /// # Panics
    ///
    /// If there is no server, or if the setup fails.
    pub async fn create(setup_sql: &str) -> Self {
        let server = match tokio::task::spawn_blocking(Server::for_tests).await {
            Ok(server) => server,
            Err(error) => panic::resume_unwind(error.into_panic()),
        };
        let database = Self::create_on(server, setup_sql).await;
        database.unwrap_or_else(|error| panic!("{error:?}\n(on {})", server.source()))
    }

    /// Creates a database on any server.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, the role may not create databases, or the setup fails.
    pub async fn create_on(server: &Server, setup_sql: &str) -> Result<Self, Error> {
        let admin = connect(&server.config()).await?;
        let mut database = Self::named(new_name("test_"), server);
        if *server.source() == Source::Url {
            // Before the database exists, in case the caller is dropped midway.
            database.drop_through = Some(server.config());
            create(&admin, &database.name, "template1").await?;
            set_up(&database.config, setup_sql).await?;
        } else {
            let template = template(server, &admin, setup_sql).await?;
            create(&admin, &database.name, &template).await?;
        }
        Ok(database)
    }

    fn named(name: String, server: &Server) -> Self {
        let mut config = server.config();
        config.dbname(&name);
        let url = url::with_database(server.url(), &name);
        Self {
            name,
            config,
            url,
            drop_through: None,
        }
    }

    /// How to connect to this database.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// Opens a new connection, driven by a task of the current runtime.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached.
    pub async fn client(&self) -> Client {
        connect(&self.config)
            .await
            .unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Returns its name, which needs no quotes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a connection string, for `psql` and other programs.
    pub fn url(&self) -> String {
        self.url.clone()
    }
}

/// Without the connection string, which may contain a password.
impl fmt::Debug for TestDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestDatabase")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(config) = self.drop_through.take() else {
            return;
        };
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A separate thread and runtime, because the test's may be shutting down. Best effort,
        // since an error cannot be reported.
        let dropping = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                if let Ok(admin) = connect(&config).await {
                    let _ = admin.batch_execute(&statement).await;
                }
            });
        });
        let _ = dropping.join();
    }
}

/// Returns the name of the template in which the setup has run.
async fn template(server: &Server, admin: &Client, setup_sql: &str) -> Result<String, Error> {
    // Held while a template is created, so that other callers wait for it instead of creating their
    // own.
    let mut templates = server.templates.lock().await;
    if let Some(name) = templates.get(setup_sql) {
        return Ok(name.clone());
    }
    let name = new_name("template_");
    create(admin, &name, "template1").await?;
    let mut config = server.config();
    set_up(config.dbname(&name), setup_sql).await?;
    templates.insert(setup_sql.to_owned(), name.clone());
    Ok(name)
}

async fn set_up(config: &Config, setup_sql: &str) -> Result<(), Error> {
    let (client, connection) = config
        .connect(NoTls)
        .await
        .map_err(Error::sql("connect to PostgreSQL"))?;
    let connection = tokio::spawn(connection);
    client
        .batch_execute(setup_sql)
        .await
        .map_err(Error::sql("run the setup of the test database"))?;
    drop(client);
    let _ = connection.await; // a template must have no connections
    Ok(())
}

async fn create(admin: &Client, name: &str, template: &str) -> Result<(), Error> {
    let statement = format!("CREATE DATABASE {name} TEMPLATE {template}");
    let mut tries = 0;
    loop {
        match admin.batch_execute(&statement).await {
            // The connection that set the template up was closed, but its process may need a moment
            // to end.
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && tries < 100 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result.map_err(Error::sql("create a database")),
        }
    }
}

async fn connect(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config
        .connect(NoTls)
        .await
        .map_err(Error::sql("connect to PostgreSQL"))?;
    tokio::spawn(connection);
    Ok(client)
}
