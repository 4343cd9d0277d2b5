//! Second implementations that the crate must agree with, as plain as possible, and a grammar of
//! inputs. The tests and the fuzz targets share them; the fuzz targets find this folder by its
//! path.

pub mod browser;
pub mod cookie_header;
pub mod grammar;
pub mod return_to;
pub mod token;
