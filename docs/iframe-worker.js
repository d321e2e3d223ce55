// The search runs in a worker, and browsers give none to a page that is opened from the disk: there a frame serves.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = "<!doctype html>";
      this.loaded = new Promise((done) => frame.addEventListener("load", done, { once: true })).then(() => {
        const scope = frame.contentWindow;
        const load = (source) =>
          new Promise((done, failed) => {
            const script = scope.document.createElement("script");
            script.addEventListener("load", () => done(scope));
            script.addEventListener("error", failed);
            script.src = source;
            scope.document.body.append(script);
          });
        scope.importScripts = (...sources) => sources.reduce((last, each) => last.then(() => load(each)), Promise.resolve());
        scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
        return load(url);
      });
      document.body.append(frame);
    }
    postMessage(data) {
      this.loaded.then((scope) => scope.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
