// Capture of streams and graphs in the stand-in driver. A graph owns copies of all arguments; where its
// edges leave an order open, SIM_ORDER chooses it.
#include <string.h>

#include <atomic>
#include <set>

#include "state.h"

namespace {

Handles<Graph> graphs(3);
Handles<Graph> executables(4);

uint64_t this_thread() {
  static std::atomic<uint64_t> next{1};
  thread_local uint64_t id = next++;
  return id;
}
thread_local int thread_mode = 0;  // GLOBAL

// Whether every node is `tail` or comes before it.
bool all_joined(const Capture &capture, const std::vector<size_t> &tail) {
  std::set<size_t> reached(tail.begin(), tail.end());
  std::vector<size_t> open(tail.begin(), tail.end());
  while (!open.empty()) {
    size_t node = open.back();
    open.pop_back();
    for (size_t before : capture.nodes[node].after)
      if (reached.insert(before).second) open.push_back(before);
  }
  return reached.size() == capture.nodes.size();
}

// What a node of a graph works on, perhaps still, until a node that waits for it begins.
struct Hold {
  std::string what;
  uint64_t address;
  size_t bytes;
  uint64_t hash;
  std::vector<char> later;  // of each node: whether it waits for this one
};
std::vector<Hold> said;  // by the work that runs

uint64_t hash_of(const Hold &hold) {
  uint64_t hash = 0xcbf29ce484222325u;
  const unsigned char *bytes = (const unsigned char *)hold.address;
  for (size_t i = 0; i < hold.bytes; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

void check(const Hold &hold, const char *where) {
  if (hash_of(hold) != hold.hash)
    complain(SUCCESS, "%s: its buffer was written by another branch before %s", hold.what.c_str(), where);
}

// Before node `i`: what it waits for must be as it was left.
void check_before(const std::vector<Hold> &holds, size_t i, const std::string &what) {
  for (const Hold &hold : holds)
    if (hold.later[i]) check(hold, what.c_str());
}

// After node `i`: it may have changed what it waited for, and says what it works on itself.
void renew(std::vector<Hold> &holds, size_t i, const std::vector<std::vector<size_t>> &next) {
  std::vector<Hold> left;
  for (Hold &hold : holds) {
    bool met = said.empty();
    for (const Hold &other : said)
      met |= other.address < hold.address + hold.bytes && hold.address < other.address + other.bytes;
    if (!hold.later[i] || !met) left.push_back(std::move(hold));
  }
  for (Hold &hold : said) {
    hold.hash = hash_of(hold);
    hold.later.assign(next.size(), 0);
    std::vector<size_t> open{i};
    while (!open.empty()) {
      size_t node = open.back();
      open.pop_back();
      for (size_t after : next[node])
        if (!hold.later[after]) {
          hold.later[after] = 1;
          open.push_back(after);
        }
    }
    left.push_back(std::move(hold));
  }
  said.clear();
  holds = std::move(left);
}

CUresult run_graph(const Graph &graph) {
  const size_t count = graph.nodes.size();
  std::vector<size_t> waits(count, 0);
  std::vector<std::vector<size_t>> next(count);
  std::set<size_t> ready;
  for (size_t i = 0; i < count; ++i) {
    waits[i] = graph.nodes[i].after.size();
    for (size_t before : graph.nodes[i].after) next[before].push_back(i);
    if (!waits[i]) ready.insert(i);
  }
  const std::string order = setting("SIM_ORDER", "forward");
  uint64_t random = 0x9E3779B97F4A7C15u;
  std::vector<Hold> holds;
  said.clear();
  while (!ready.empty()) {
    auto chosen = ready.begin();
    if (order == "reverse") chosen = std::prev(ready.end());
    if (order == "random") {
      random = random * 6364136223846793005u + 1442695040888963407u;
      std::advance(chosen, (random >> 33) % ready.size());
    }
    size_t node = *chosen;
    ready.erase(chosen);
    const Work &work = graph.nodes[node].work;
    check_before(holds, node, work.what);
    CUresult status = work.run();
    if (status) return status;
    renew(holds, node, next);
    for (size_t after : next[node])
      if (!--waits[after]) ready.insert(after);
  }
  for (const Hold &hold : holds) check(hold, "the graph's end");
  return SUCCESS;
}

CUresult instantiate(Handle *out, Handle handle) {
  auto graph = graphs.find(handle);
  if (!out) return INVALID_VALUE;
  if (!graph) return complain(INVALID_VALUE, "cuGraphInstantiate: not a graph");
  *out = executables.add(std::make_shared<Graph>(*graph));
  return SUCCESS;
}

}  // namespace

EXPORT void sim_hold(uint64_t address, size_t bytes, const char *what) {
  said.push_back({what, address, bytes, 0, {}});
}

bool capture_forbids() {
  bool forbids = false;
  if (thread_mode == 2) return false;
  for (auto &stream : live_streams()) {
    if (!stream->capture) continue;
    int mode = stream->capture->mode;
    bool mine = stream->capture->thread == this_thread();
    if (mode == 2 || (!mine && (mode == 1 || thread_mode == 1))) continue;
    stream->capture->invalid = true;
    forbids = true;
  }
  return forbids;
}

EXPORT CUresult cuStreamBeginCapture_v2(Handle handle, int mode) {
  ENTER(CONTEXT);
  auto stream = stream_of(handle);
  if (!stream) return complain(INVALID_HANDLE, "cuStreamBeginCapture: not a stream of this context");
  if (mode < 0 || mode > 2) return INVALID_VALUE;
  if (!stream->handle) return complain(CAPTURE_UNSUPPORTED, "the null stream cannot be captured");
  if (stream->capture) return complain(ILLEGAL_STATE, "cuStreamBeginCapture: it is in a capture already");
  stream->capture = std::make_shared<Capture>();
  stream->capture->mode = mode;
  stream->capture->thread = this_thread();
  stream->origin = true;
  stream->capture_tail.clear();
  return SUCCESS;
}

EXPORT CUresult cuStreamEndCapture(Handle handle, Handle *out) {
  ENTER(CONTEXT);
  auto stream = stream_of(handle);
  if (!stream) return complain(INVALID_HANDLE, "cuStreamEndCapture: not a stream of this context");
  if (!out) return INVALID_VALUE;
  *out = nullptr;
  auto capture = stream->capture;
  if (!capture) return complain(ILLEGAL_STATE, "cuStreamEndCapture: the stream is not in a capture");
  if (!stream->origin) {
    capture->invalid = true;
    return complain(CAPTURE_UNMATCHED, "cuStreamEndCapture: the capture began in another stream");
  }
  bool joined = all_joined(*capture, stream->capture_tail);
  for (auto &other : live_streams())
    if (other->capture == capture) other->capture = nullptr;
  if (capture->invalid) return CAPTURE_INVALIDATED;
  if (!joined) return complain(CAPTURE_UNJOINED, "cuStreamEndCapture: work of another stream is not joined");
  auto graph = std::make_shared<Graph>();
  graph->nodes = capture->nodes;
  *out = graphs.add(graph);
  return SUCCESS;
}

EXPORT CUresult cuStreamIsCapturing(Handle handle, int *out) {
  ENTER(CONTEXT);
  auto stream = stream_of(handle);
  if (!stream) return INVALID_HANDLE;
  if (!out) return INVALID_VALUE;
  *out = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
  return SUCCESS;
}

EXPORT CUresult cuThreadExchangeStreamCaptureMode(int *mode) {
  ENTER(DRIVER);
  if (!mode || *mode < 0 || *mode > 2) return INVALID_VALUE;
  std::swap(*mode, thread_mode);
  return SUCCESS;
}

EXPORT CUresult cuGraphInstantiateWithFlags(Handle *out, Handle graph, unsigned long long flags) {
  ENTER(CONTEXT);
  if (flags & ~15ull) return INVALID_VALUE;
  return instantiate(out, graph);
}

EXPORT CUresult cuGraphInstantiate_v2(Handle *out, Handle graph, Handle *node, char *words, size_t bytes) {
  ENTER(CONTEXT);
  if (node) *node = nullptr;
  if (words && bytes) *words = 0;
  return instantiate(out, graph);
}

EXPORT CUresult cuGraphUpload(Handle executable, Handle stream) {
  ENTER(CONTEXT);
  return executables.find(executable) && stream_of(stream) ? SUCCESS : INVALID_VALUE;
}

EXPORT CUresult cuGraphLaunch(Handle executable, Handle handle) {
  ENTER(CONTEXT);
  auto graph = executables.find(executable);
  auto stream = stream_of(handle);
  if (!graph) return complain(INVALID_VALUE, "cuGraphLaunch: not an executable graph, or destroyed");
  if (!stream) return complain(INVALID_HANDLE, "cuGraphLaunch: not a stream of this context");
  if (stream->capture) {
    stream->capture->invalid = true;
    return complain(CAPTURE_UNSUPPORTED, "cuGraphLaunch inside a capture is not made here");
  }
  std::vector<const Work *> parts;
  for (auto &node : graph->nodes) parts.push_back(&node.work);
  Work work{"cuGraphLaunch", [graph] { return run_graph(*graph); }};
  enqueue(stream, std::move(work), std::move(parts), graph);
  return SUCCESS;
}

EXPORT CUresult cuGraphGetNodes(Handle handle, Handle *nodes, size_t *count) {
  ENTER(CONTEXT);
  auto graph = graphs.find(handle);
  if (!graph || !count) return INVALID_VALUE;
  if (nodes)
    for (size_t i = 0; i < *count; ++i) nodes[i] = i < graph->nodes.size() ? &graph->nodes[i] : nullptr;
  if (!nodes || *count > graph->nodes.size()) *count = graph->nodes.size();
  return SUCCESS;
}

EXPORT CUresult cuGraphDestroy(Handle handle) {
  ENTER(CONTEXT);
  return graphs.remove(handle) ? SUCCESS : complain(INVALID_VALUE, "cuGraphDestroy: not a graph");
}

EXPORT CUresult cuGraphExecDestroy(Handle handle) {
  ENTER(CONTEXT);
  return executables.remove(handle) ? SUCCESS : complain(INVALID_VALUE, "cuGraphExecDestroy: not a graph");
}
