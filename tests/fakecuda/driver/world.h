// The stand-in for libcuda.so.1: what a process sees of one driver, over host memory. All state is
// in one World behind one mutex; ops execute outside of it, on a thread for each stream.
//
// The entry points of cuBLASLt that are used are here too (cublas.cc), as a library of their own would be.
//
// What it checks, each a violation with a text:
//   - copies from or to host memory that is not registered; registered memory that changes between
//     the call of a copy and its execution
//   - memory that is freed, out of bounds, or of the wrong side
//   - the order of accesses (order.cc): vector clocks for each range of memory, device and host
//   - launches that a GPU refuses: block and grid limits, shared memory that was not asked for,
//     arguments of another size than the kernel's
//   - destroyed handles, calls without a current context, what is left when a context goes
// A violation breaks the context, as a device-side assertion would, and is the text of that error;
// so a program that runs to its end without an error had none.
#ifndef FAKECUDA_WORLD_H
#define FAKECUDA_WORLD_H

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

// The kernels, compiled for the host: a launch returns 0, or the thread has an error.
extern "C" int mr_play_launch(const char *kernel, const uint32_t grid[3], const uint32_t block[3],
	uint32_t shared, const void *args);
extern "C" const char *mr_play_error(void);
extern "C" uint32_t mr_play_args_bytes(const char *kernel);

namespace fakecuda {

enum Result {
	OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101,
	INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_PTX = 218, UNSUPPORTED_PTX = 222,
	INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
	LAUNCH_OUT_OF_RESOURCES = 701, ASSERT = 710, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713,
	LAUNCH_FAILED = 719, NOT_INITIALIZED = 3
};

// sticky reports the results after which a context gives no other.
bool sticky(int code);

using Clock = std::vector<uint64_t>; // by thread of work: 0 is the host, others are streams
void join(Clock &into, const Clock &from);

// Order remembers who touched which range last, and finds accesses that nothing orders.
class Order {
public:
	// access returns "" or what is wrong with an access by who, whose clock is given.
	std::string access(uint64_t at, uint64_t bytes, bool write, uint32_t who, const Clock &clock,
		const std::string &what);
	void forget(uint64_t at, uint64_t bytes);

private:
	struct Epoch {
		uint32_t who = 0;
		uint64_t time = 0; // 0: never
		const std::string *what = nullptr;
	};
	struct Range {
		uint64_t end;
		Epoch write;
		std::vector<Epoch> reads;
	};
	std::map<uint64_t, Range> ranges;
	std::set<std::string> texts;
	void split(uint64_t at);
	static bool before(const Epoch &e, uint32_t who, const Clock &clock);
};

struct Context;
struct Stream;

struct Event {
	Context *context;
	uint64_t recorded = 0, completed = 0; // versions
	Clock clock;                          // of the last record
	bool timed = false;
	uint64_t time = 0; // of its stream when it was passed, nanoseconds
};

// Touch is host memory that an op which has not run yet reads or writes.
struct Touch {
	uint64_t at, bytes;
	bool write;
};

// Op returns "" or a violation.
struct Op {
	std::function<std::string()> run; // outside the lock; empty for events
	Event *record = nullptr, *wait = nullptr;
	uint64_t version = 0;
	std::list<Touch>::iterator touch;
	bool touches = false;
	uint64_t cost = 0; // nanoseconds that the stream's time goes on
};

struct Stream {
	Context *context;
	uint32_t who; // index in clocks
	uint64_t number; // for texts
	Clock clock;
	std::deque<Op> queue;
	bool busy = false, closing = false;
	uint64_t random;
	uint64_t time = 0; // what its ops cost, as control sets it: a clock that no machine's load disturbs
	std::vector<Touch> declared; // for the next launch
	std::thread thread;
	std::string name() const { return "stream " + std::to_string(number); }
};

struct Kernel {
	std::string name;
	uint64_t argument_bytes = 0;
	uint32_t threads_max = 1024;
	struct Module *module = nullptr;
};

// shared_max is the dynamic shared memory of a block that needs no asking.
constexpr uint32_t shared_max = 48 << 10;

struct Module {
	Context *context;
	std::map<std::string, Kernel> kernels;
};

struct Allocation {
	Context *context;
	uint64_t bytes, mapped; // mapped: without guards
};

struct Registration {
	Context *context;
	uint64_t bytes;
};

struct Context {
	int device = 0;
	int references = 0;
	int broken = OK;
	bool dead = false; // cannot be made current: the driver has taken back what it held
};

// BlasObject is a handle of cuBLASLt or one of its descriptors.
struct BlasObject {
	enum Kind { HANDLE, PRODUCT, LAYOUT, PREFERENCE } kind;
	Context *context = nullptr; // of a handle
	int type = 0, compute = 0, scale = 0, transposed[2] = {0, 0};
	uint64_t rows = 0, cols = 0, ld = 0;
	uint64_t workspace = 0;
	uint32_t alignment[4] = {256, 256, 256, 256}; // of A, B, C and D
};

constexpr int devices_max = 8;

struct World {
	std::mutex m;
	std::condition_variable changed;

	// What control sets.
	int devices = 1, version = 12040, capability = 80;
	uint64_t memory = 4ull << 30;
	bool strict = true, host_pointer = true;
	uint64_t hold = 0; // the number of a stream that executes nothing; 0: none
	uint64_t seed = 1, delay_one_in = 16, delay_max_us = 60;
	std::string fail_name;
	uint64_t fail_countdown = 0; // 0: none
	int fail_code = 0;
	uint64_t chance_state = 0, chance_per_million = 0;
	uint64_t calls = 0;
	uint64_t launch_ns = 1000, product_ns = 1000;            // what a kernel costs, and a product of cuBLASLt
	int blas_version[3] = {12, 4, 5};
	uint64_t blas_algorithms = 1; // that are found for a product

	bool initialized = false;
	Context contexts[devices_max];
	std::set<Stream *> streams;
	std::set<Event *> events;
	std::set<Module *> modules;
	std::map<uint64_t, Allocation> allocations;
	std::map<uint64_t, Registration> registrations;
	std::list<Touch> touches;
	std::set<BlasObject *> blas;
	uint64_t used = 0;
	uint64_t peak_device = 0, peak_host = 0; // bytes, since fresh

	Order order;
	Clock host{1};
	uint32_t next_who = 1;
	std::vector<uint32_t> free_who; // of destroyed streams
	std::vector<std::pair<uint32_t, uint64_t>> lost_who; // of those that the host did not wait for
	uint64_t streams_made = 0;
	std::vector<std::string> violations;
	std::string last_violation = "device-side assert triggered";

	void violate(Context *c, const std::string &text);
	void broke(Context *c, int code);
	// begin takes part of a call that enqueues: the op comes after all that the host knows of.
	void begin(Stream *s);
	void access(Stream *s, uint64_t at, uint64_t bytes, bool write, const std::string &what);
	bool touched(uint64_t at, uint64_t bytes, bool writes_only) const;
	bool registered(uint64_t at, uint64_t bytes) const;
	bool allocated(uint64_t at, uint64_t bytes) const;
	uint64_t locked() const; // bytes of host memory that are registered
	void push(Stream *s, Op op);
	void drain(std::unique_lock<std::mutex> &lock, Stream *s);
	void drain(std::unique_lock<std::mutex> &lock, Context *c);
	void serve(Stream *s);
	void destroy(std::unique_lock<std::mutex> &lock, Context *c);
	void reclaim(std::unique_lock<std::mutex> &lock, Context *c);
	void end(std::unique_lock<std::mutex> &lock, Stream *s);
	std::map<uint64_t, Allocation>::iterator unmap(std::map<uint64_t, Allocation>::iterator i);
	std::string live() const;
};

World &world();

// Call is one call of an entry point: it holds the lock, counts, and draws a failure. code is what
// the call must return; entry points that give something back do so before they return it.
struct Call {
	std::unique_lock<std::mutex> lock;
	World &w;
	int code = OK;
	Context *context = nullptr;
	// needs_context: a context must be current, and its failure is the call's.
	Call(const char *name, bool needs_context);
	// refuse is the result of a call that found a violation.
	int refuse(int otherwise) const { return context && context->broken ? context->broken : otherwise; }
	template <class T> bool has(const std::set<T *> &set, T *handle, const char *what)
	{
		if (set.count(handle))
			return true;
		w.violate(context, std::string("a ") + what + " that is destroyed, or never was");
		return false;
	}
};

uint64_t hash(const void *p, uint64_t bytes);
uint64_t next_random(uint64_t &state);
std::string hex(uint64_t v);

} // namespace fakecuda

#endif
