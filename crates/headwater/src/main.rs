//! The headwater binary.

fn main() {
    let path = std::env::args().nth(1).unwrap_or_default();
    let loaded = headwater_http::config::load(headwater_http::config::build::LoadOptions {
        file: path.clone().into(),
        prefix: "/tmp/hw".into(),
        globals: None,
        error_log: None,
        source: &headwater_conf::FileSource,
        log_files: Default::default(),
        number: 1,
    });
    match &loaded.outcome {
        Err(e) => {
            eprintln!("headwater: [emerg] {}\n{}", e.line(&loaded.files), e.snippet(&loaded.files));
            std::process::exit(1)
        }
        Ok(conf) => {
            let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
            let sockets = conf
                .listeners
                .values()
                .map(|l| (l.key.clone(), headwater_io::bind(&l.options).unwrap()))
                .collect();
            let _ = tx.send(headwater_http::flow::worker::Command::Configure { conf: conf.clone(), sockets });
            headwater_http::flow::worker::run(0, rx, headwater_http::flow::worker::Shared::new()).unwrap();
        }
    }
}
