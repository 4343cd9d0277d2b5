//! What the crate must agree with, written a second time and as plainly as can be, and a grammar of what it
//! may be given. Shared by the tests and the fuzz targets, which find this folder by its path.

pub mod browser;
pub mod cookie_header;
pub mod grammar;
pub mod return_to;
pub mod token;
