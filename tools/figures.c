/* SPDX-License-Identifier: MIT */
#include "figures.h"

#include <stdio.h>

struct human human_count(uint64_t count)
{
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%ju", (uintmax_t)count);
    struct human result;
    size_t out = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) {
            result.text[out++] = ',';
        }
        result.text[out++] = digits[i];
    }
    result.text[out] = '\0';
    return result;
}

struct human human_bytes(uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    struct human result;
    double amount = (double)bytes;
    size_t unit = 0;
    while (amount >= 1023.95 && unit < sizeof units / sizeof *units - 1) {
        amount /= 1024;
        unit++;
    }
    snprintf(result.text, sizeof result.text, unit == 0 ? "%.0f %s" : "%.1f %s", amount,
             units[unit]);
    return result;
}

struct human human_duration(uint64_t time_ns)
{
    struct human result;
    if (time_ns < UINT64_C(1000)) {
        snprintf(result.text, sizeof result.text, "%ju ns", (uintmax_t)time_ns);
    } else if (time_ns < UINT64_C(1000000)) {
        snprintf(result.text, sizeof result.text, "%.1f us", (double)time_ns / 1e3);
    } else if (time_ns < UINT64_C(1000000000)) {
        snprintf(result.text, sizeof result.text, "%.1f ms", (double)time_ns / 1e6);
    } else {
        snprintf(result.text, sizeof result.text, "%.2f s", (double)time_ns / 1e9);
    }
    return result;
}

struct human human_rate(uint64_t count, uint64_t time_ns)
{
    double rate = time_ns > 0 ? (double)count / ((double)time_ns / 1e9) : 0;
    struct human result;
    snprintf(result.text, sizeof result.text, "%.29s/s", human_count((uint64_t)rate).text);
    return result;
}
